import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers

_CLASSES = {
    "lars": optimizers.LARS,
    "sgd": optimizers.SGD,
    "keras_sgd": optimizers.DecoupledSGD,
    "adamw": optimizers.AdamW,
    "lamb": optimizers.Lamb,
}


def _variables():
    with keras.name_scope("dense"):
        kernel = keras.Variable(np.ones((2, 2), np.float32), name="kernel")
        bias = keras.Variable(np.ones(2, np.float32), name="bias")
    with keras.name_scope("debias"):
        other = keras.Variable(np.ones((2, 2), np.float32), name="biased")
    return [kernel, bias, other]


def _decayed(optimizer, strategy=None):
    """Which variables move, one step with gradient zero: weight decay alone."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        variables = _variables()
        optimizer.build(variables)
    grads = [tf.zeros(v.shape) for v in variables]

    @tf.function
    def step():
        strategy.run(optimizer.apply, args=(grads, variables))

    step()
    return [bool((v.numpy() != 1).any()) for v in variables]


@pytest.mark.parametrize("name", list(_CLASSES))
def test_class_rate_decay_and_exclusion(name):
    settings = {"learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.8}
    optimizer = optimizers.build(name, **settings)
    assert type(optimizer) is _CLASSES[name]
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    config = optimizer.get_config()
    assert config["weight_decay"] == 0.5
    assert config.get("momentum", config.get("beta_1")) == 0.8
    # By default LARS alone spares the bias; a list is taken by all.
    assert _decayed(optimizer) == [True, name != "lars", True]
    spared = optimizers.build(name, **settings, exclude_from_decay=("bias",))
    assert _decayed(spared) == [True, False, True]
    everything = optimizers.build(name, **settings, exclude_from_decay=())
    assert _decayed(everything) == [True, True, True]
    assert _decayed(optimizers.build(name, learning_rate=0.1)) == [False] * 3


def test_further_arguments_reach_the_class():
    lars = optimizers.build(
        "lars", learning_rate=0.1, nesterov=True, momentum_form="adapted"
    )
    assert (lars.nesterov, lars.momentum_form) == (True, "adapted")
    adamw = optimizers.build("adamw", learning_rate=0.1, beta_2=0.95)
    assert adamw.beta_2 == 0.95
    with pytest.raises(ValueError, match="'nesterov' received, but adamw takes only"):
        optimizers.build("adamw", learning_rate=0.1, nesterov=True)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_momentum_by_its_own_name(name):
    for given, expected in (
        ({}, 0.9),
        ({"momentum": 0.5}, 0.5),
        ({"beta_1": 0.1}, 0.1),
    ):
        assert optimizers.build(name, learning_rate=0.1, **given).beta_1 == expected


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_exclusion_on_replicas(name, mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        optimizer = optimizers.build(
            name, learning_rate=0.1, weight_decay=0.5, exclude_from_decay=("bias",)
        )
    assert _decayed(optimizer, strategy) == [True, False, True]


@pytest.mark.parametrize("name", list(_CLASSES))
def test_takes_a_schedule(name):
    schedule = optimizers.schedules.WarmupCosine(0.1, 2, 10)
    optimizer = optimizers.build(name, learning_rate=schedule)
    assert float(optimizer.learning_rate) == 0.0


def test_bad_arguments():
    with pytest.raises(ValueError, match="'adam'; valid names are lars, larc, sgd, "):
        optimizers.build("adam", learning_rate=0.1)
    with pytest.raises(ValueError, match="weight_decay=-1 received"):
        optimizers.build("sgd", learning_rate=0.1, weight_decay=-1)
    for name, given, sentence in (
        ("lars", {"name": ""}, "optimizer_arg 'name' received, but lars takes only"),
        ("lars", {"momentum": "abc"}, "momentum='abc' received, expected a number"),
        ("lars", {"clip": True}, "optimizer_arg 'clip' received, but lars takes only"),
        ("lars", {"nesterov": "no"}, "nesterov='no' received, expected True or False"),
        ("adamw", {"beta_1": 2}, r"beta_1=2 received, expected a number in \[0, 1\)"),
        ("adamw", {"beta_2": 1.0}, r"beta_2=1.0 received, expected"),
        ("adamw", {"clipnorm": "abc"}, "clipnorm='abc' received, expected a number ab"),
        ("lamb", {"epsilon": -1}, "epsilon=-1 received, expected a number above 0"),
        ("lamb", {"ema_momentum": 5}, "ema_momentum=5 received, expected"),
        ("lamb", {"beta_1": "abc"}, "beta_1='abc' received, expected a number"),
        ("lamb", {"beta_1": 0.5, "momentum": 0.9}, "they are the same of lamb; give"),
    ):
        with pytest.raises(ValueError, match=sentence):
            optimizers.build(name, learning_rate=0.1, **given)
    with pytest.raises(ValueError, match="exclude_from_decay .* got 'bias'"):
        optimizers.build("adamw", learning_rate=0.1, exclude_from_decay="bias")


@pytest.mark.parametrize("name", list(_CLASSES))
def test_every_optimizer_clips(name):
    settings = {"learning_rate": 0.1, "weight_decay": 0.0}
    assert optimizers.build(name, clipnorm=3.0, **settings).clipnorm == 3
    with pytest.raises(ValueError, match="clipnorm=0 received, expected a number abov"):
        optimizers.build(name, clipnorm=0, **settings)


def test_a_weight_decay_that_changes_is_adamws():
    schedule = optimizers.schedules.WarmupCosine(0.04, 0, 10, final=0.4)
    sentence = "decay that changes received with optimizer 'sgd', .* choose 'adamw'"
    with pytest.raises(ValueError, match=sentence):
        optimizers.build("sgd", learning_rate=0.1, weight_decay=schedule)

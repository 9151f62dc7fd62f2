import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tfssl import optimizers
from tfssl.optimizers import anew


class Own(keras.optimizers.SGD):
    """Registered nowhere, with a setting that its config does not tell."""

    def __init__(self, learning_rate, strength=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.strength = strength

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(self.strength * gradient, variable, learning_rate)


class Wanting(Own):
    def __init__(self, learning_rate, strength, **kwargs):
        super().__init__(learning_rate, strength, **kwargs)


class Holding(keras.optimizers.SGD):
    """Holds what its config does not tell."""

    def __init__(self, learning_rate, held=None, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.held = held


class Deciding(Holding):
    """With a value of its own where none is given."""

    def __init__(self, learning_rate, held=None, **kwargs):
        held = tf.constant(2.0) if held is None else held
        super().__init__(learning_rate, held, **kwargs)


def _every_class():
    found = filter(inspect.isclass, vars(keras.optimizers).values())
    ours = [type(optimizers.build(n, learning_rate=1.0)) for n in optimizers.OPTIMIZERS]
    base = keras.optimizers.Optimizer
    return [
        kind
        for kind in dict.fromkeys([*found, *ours])
        if issubclass(kind, base)
        and "learning_rate" in inspect.signature(kind).parameters
        and kind is not base
    ]


@pytest.mark.parametrize("kind", _every_class())
def test_every_optimizer_can_be_made_anew(kind):
    given = kind(learning_rate=0.25, clipnorm=2.0, name="mine")
    given.exclude_from_weight_decay(var_names=["bias"])
    given.iterations.assign(7)
    given.learning_rate = 0.125
    made = anew.made(given)
    assert type(made) is kind and made.get_config() == given.get_config()
    assert [v.path for v in made.variables] == [v.path for v in given.variables]
    assert made.iterations is not given.iterations and int(made.iterations) == 7
    made.build([keras.Variable(np.ones((2, 2)), name="kernel")])
    assert not given.built and not vars(given)["_trainable_variables_indices"]
    assert made._use_weight_decay(made._trainable_variables[0])
    assert not made._use_weight_decay(keras.Variable(1.0, name="bias"))


def test_the_one_inside_of_another_is_made_anew_too():
    scale = keras.optimizers.LossScaleOptimizer
    given = scale(Own(0.5, strength=3.0), initial_scale=8.0)
    made = anew.made(given)
    assert made.initial_scale == 8 and made.inner_optimizer.strength == 3
    assert made.inner_optimizer is not given.inner_optimizer
    by_place = {"kernel": keras.optimizers.Adam(0.25)}
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5), by_place)
    by_place["kernel"].exclude_from_weight_decay(var_names=["bias"])
    made = anew.made(keras.optimizers.MultiOptimizer(chosen))
    assert [float(one.learning_rate) for one in made.optimizers] == [0.25, 0.5]
    bias = keras.Variable(1.0, name="bias")
    assert [one._use_weight_decay(bias) for one in made.optimizers] == [False, True]


def test_settings_that_a_config_does_not_tell_stay_or_are_refused():
    assert anew.made(Own(0.5, strength=3.0)).strength == 3
    given = optimizers.SGD(0.5)
    given.momentum = 0.75
    assert anew.made(given).momentum == 0.75
    for held in (np.float32(3), max, [1, {"a": (2, None)}]):
        assert anew.made(Holding(0.5, held=held)).held == held
    table = anew.made(Holding(0.5, held=np.arange(3))).held
    np.testing.assert_array_equal(table, np.arange(3))
    with pytest.raises(ValueError, match=r"=Wanting received, which .* 'strength'; le"):
        anew.made(Wanting(0.5, strength=3.0))
    with pytest.raises(ValueError, match="=Holding received, .* lacks 'held'; let it"):
        anew.made(Holding(0.5, held=tf.constant(1.0)))
    with pytest.raises(ValueError, match="=Deciding received, .* lacks 'held'; let it"):
        anew.made(Deciding(0.5, held=tf.constant(1.0)))


def constant():
    return 0.5


def test_a_rate_that_is_computed_stays():
    halving = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    for rate in (halving, constant):
        given = keras.optimizers.SGD(rate)
        given.iterations.assign(1)
        made = anew.made(given)
        assert float(made.learning_rate) == float(given.learning_rate)
        assert len(made.variables) == 1 and int(made.iterations) == 1


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_two_replicas_count_a_step_once(kind, mirrored):
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.5)
    alone = cases.make("npid_nce", optimizer=kind(schedule))
    cases.train(alone, cases.batches("npid_nce"))
    given, strategy = kind(schedule), mirrored(2)
    with strategy.scope():
        both = cases.make("npid_nce", optimizer=anew.made(given))
    cases.train(both, cases.batches("npid_nce"), strategy=strategy)
    assert both.optimizer.iterations.numpy() == cases.STEPS
    cases.assert_close(cases.state(alone), cases.state(both))

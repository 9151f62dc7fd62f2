import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers, replicas
from tfssl.optimizers import updates


def test_names():
    assert updates.names("x", ["bias", "gamma"]) == ("bias", "gamma")
    assert updates.names("x", ()) == ()
    assert updates.names("x", ("dense/bias",)) == ("dense/bias",)
    for value in ("bias", ("/bias",), ("dense//bias",), ("",), (1,)):
        with pytest.raises(ValueError, match="which must be|x must be a tuple"):
            updates.names("x", value)


def test_flags_compare_whole_parts():
    variables = []
    for scope, name in (("a", "bias"), ("bias", "kernel"), ("a", "bias_2")):
        with keras.name_scope(scope):
            variables.append(keras.Variable(np.zeros(1), name=name))
    assert updates.flags(variables, ("bias",)) == [False, True, True]
    assert updates.flags(variables, ("bias/kernel", "b/bias")) == [True, False, True]


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_names_that_no_variable_has_are_said(name, caplog):
    names = ("bias", "beta", "cls_token", "other/kernel")
    optimizer = optimizers.build(name, learning_rate=0.1, exclude_from_decay=names)
    with keras.name_scope("dense"):
        variables = [keras.Variable(np.zeros(1), name=n) for n in ("kernel", "bias")]
    optimizer.build(variables)
    said = "spares nothing by 'cls_token', 'other/kernel': .* as in dense/kernel"
    assert re.search(said, caplog.text), caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    optimizers.build(name, learning_rate=0.1).build(variables)
    assert not caplog.records


@pytest.mark.parametrize("name", ["sgd", "adamw", "keras_sgd", "lamb"])
def test_clipping_is_of_the_gradient_of_all_replicas(name, mirrored):
    """(3, 0) and (0, 4) make (3, 4), which is five times too long."""
    strategy = mirrored(2)
    with strategy.scope():
        long = keras.Variable(np.zeros(2, np.float32))
        short = keras.Variable(np.zeros(1, np.float32))
        # With this epsilon AdamW's step is the gradient, enlarged.
        adam = dict(momentum=0.0, beta_2=0.0, epsilon=1e6)
        settings = adam if name in ("adamw", "lamb") else {}
        optimizer = optimizers.build(name, learning_rate=1.0, clipnorm=1.0, **settings)
        optimizer.build([long, short])

    @tf.function
    def step():
        def on_replica():
            at = tf.one_hot(replicas.replica_index(), 2)
            given = [at * tf.constant([3.0, 4.0]), tf.constant([0.25])]
            optimizer.apply(given, [long, short])

        strategy.run(on_replica)

    step()
    by = 1e6 if name in ("adamw", "lamb") else 1.0
    np.testing.assert_allclose(long.numpy() * by, [-0.6, -0.8], rtol=1e-4)
    np.testing.assert_allclose(short.numpy() * by, [-0.5], rtol=1e-4)

import keras
import numpy as np
import tensorflow as tf

from tfssl import optimizers


def _moved(optimizer, scope):
    """Where ten steps bring a kernel of this scope."""
    random = np.random.default_rng(0)
    with keras.name_scope(scope):
        kernel = keras.Variable(random.normal(size=(3, 2)), name="kernel")
    optimizer.build([kernel])
    for _ in range(10):
        optimizer.apply([tf.constant(random.normal(size=(3, 2)), "float32")])
    return kernel.numpy()


def test_steps_are_those_of_keras_but_for_the_kernels_of_a_classifier():
    settings = dict(learning_rate=0.1, weight_decay=0.02)
    found = _moved(optimizers.Lamb(**settings), "dense")
    expected = _moved(keras.optimizers.Lamb(**settings), "dense")
    np.testing.assert_array_equal(found, expected)
    found = _moved(optimizers.Lamb(**settings), "logits")
    expected = _moved(keras.optimizers.Adam(**settings), "logits")
    np.testing.assert_array_equal(found, expected)


def test_config_round_trip():
    optimizer = optimizers.Lamb(0.1, beta_2=0.9, weight_decay=0.3, clipnorm=2.0)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(loaded) is optimizers.Lamb
    assert loaded.get_config() == optimizer.get_config()

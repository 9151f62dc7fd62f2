import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers


def _reference(w, grads, rate, momentum, decay, nesterov):
    """torch.optim.SGD, written from its documentation, in float64."""
    w, buffer = w.astype(np.float64), None
    for g in grads:
        g = g + decay * w
        buffer = g if buffer is None else momentum * buffer + g
        w = w - rate * (g + momentum * buffer if nesterov else buffer)
    return w


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name, decay", [("kernel", 0.1), ("bias", 0.0)])
def test_ten_steps_match_numpy(name, decay, nesterov):
    random = np.random.default_rng(0)
    start = random.normal(size=(3, 2)).astype(np.float32)
    grads = random.normal(size=(10, 3, 2)).astype(np.float32)
    variable = keras.Variable(start, name=name)
    optimizer = optimizers.SGD(
        0.2, weight_decay=0.1, nesterov=nesterov, exclude_from_decay=("bias",)
    )
    optimizer.build([variable])
    for g in grads:
        optimizer.apply([tf.constant(g)])
    expected = _reference(start, grads, 0.2, 0.9, decay, nesterov)
    np.testing.assert_allclose(variable, expected, rtol=1e-6, atol=1e-6)


def test_rate_is_outside_the_slot():
    # Gradient 1 then 0 at rates 1 then 0.1: w = -1, then -1 - 0.1 * 0.9. Keras's
    # SGD, whose slot holds the rate, ends at -1.9.
    variable = keras.Variable(np.zeros(1, np.float32), name="kernel")
    optimizer = optimizers.SGD(1.0)
    optimizer.build([variable])
    optimizer.apply([tf.ones([1])])
    optimizer.learning_rate = 0.1
    optimizer.apply([tf.zeros([1])])
    np.testing.assert_allclose(variable, [-1.09], rtol=1e-6)


def test_some_variables_have_no_momentum():
    # Two gradients of 1 at rate 1: 1 + 1.9 with momentum 0.9, 1 + 1 without.
    moving = keras.Variable(np.zeros(1, np.float32), name="kernel")
    still = keras.Variable(np.zeros(1, np.float32), name="classifier_kernel")
    optimizer = optimizers.SGD(1.0, exclude_from_momentum=("classifier_kernel",))
    optimizer.build([moving, still])
    for _ in range(2):
        optimizer.apply([tf.ones([1])] * 2)
    np.testing.assert_allclose([moving.numpy()[0], still.numpy()[0]], [-2.9, -2.0])


def test_config_round_trip():
    optimizer = optimizers.SGD(
        0.1, 0.8, 1e-4, nesterov=True, exclude_from_decay=("bias",), clipnorm=1.0
    )
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, optimizers.SGD)
    assert again.get_config() == optimizer.get_config()
    assert config["config"]["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"momentum": -0.1}, "momentum=-0.1 received"),
        ({"weight_decay": float("nan")}, "weight_decay=nan received"),
        ({"exclude_from_decay": "bias"}, "exclude_from_decay .* got 'bias'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimizers.SGD(0.1, **kwargs)

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers


def _reference(w, grads, rate, decay, trust=1e-3, momentum=0.9, clip=False):
    """apex's LARC around torch's SGD, in float64."""
    w, buffer = w.astype(np.float64), 0.0
    for g in grads:
        size, length = np.linalg.norm(w), np.linalg.norm(g)
        if size != 0 and length != 0:
            local = trust * size / (length + decay * size + 1e-8)
            local = min(local / rate, 1) if clip else local
            g = (g + decay * w) * local
        buffer = momentum * buffer + g
        w = w - rate * buffer
    return w


# At a rate of 0.02 the bound of the clipped form acts in some steps, not in all.
@pytest.mark.parametrize("rate, clip", [(4.8, False), (0.02, True), (4.8, True)])
@pytest.mark.parametrize("name, decay", [("kernel", 0.5), ("spared", 0.0)])
def test_ten_steps_match_numpy(name, decay, rate, clip):
    random = np.random.default_rng(0)
    start = random.normal(size=(3, 2)).astype(np.float32)
    grads = random.normal(size=(10, 3, 2)).astype(np.float32)
    grads[4] = 0  # Neither adapted nor decayed.
    variable = keras.Variable(start, name=name)
    optimizer = optimizers.LARC(
        rate,
        weight_decay=0.5,
        exclude_from_decay=("spared",),
        trust_coefficient=0.02,
        clip=clip,
    )
    optimizer.build([variable])
    for g in grads:
        optimizer.apply([tf.constant(g)])
    expected = _reference(start, grads, rate, decay, trust=0.02, clip=clip)
    np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)


def test_biases_are_adapted_too_and_zero_ones_take_the_plain_gradient():
    zero = keras.Variable(np.zeros(2, np.float32), name="bias")
    gamma = keras.Variable(np.full(2, 3.0, np.float32), name="gamma")
    optimizer = optimizers.LARC(1.0, weight_decay=0.0)
    optimizer.build([zero, gamma])
    optimizer.apply([tf.constant([3.0, 4.0]), tf.constant([3.0, 4.0])])
    np.testing.assert_allclose(zero, [-3, -4], rtol=1e-6)
    # 0.001 * |w| / |g| = 0.001 * 3 sqrt(2) / 5.
    step = 0.001 * 3 * np.sqrt(2) / 5 * np.array([3, 4])
    np.testing.assert_allclose(gamma, 3 - step, rtol=1e-6)


def test_a_gradient_that_is_switched_off_leaves_variable_and_slot():
    variable = keras.Variable(np.ones(3, np.float32), name="prototypes")
    optimizer = optimizers.LARC(4.8, weight_decay=0.1)
    optimizer.build([variable])
    optimizer.apply([tf.zeros(3)])
    np.testing.assert_array_equal(variable, 1)
    np.testing.assert_array_equal(optimizer.momentums[0], 0)


def test_config_round_trip():
    optimizer = optimizers.LARC(0.6, trust_coefficient=0.02, clip=True, epsilon=1e-6)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, optimizers.LARC)
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("argument", ["trust_coefficient", "epsilon"])
def test_clear_errors(argument):
    with pytest.raises(ValueError, match=f"{argument}=0 received, expected a number"):
        optimizers.LARC(0.1, **{argument: 0})

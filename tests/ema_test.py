import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import ema, models
from tfssl.models import heads, norms


def _networks():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = norms.BatchNorm()(keras.layers.Conv2D(4, 3)(inputs))
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    return encoder, heads.mlp(4, (5, 3), name="projector")


def _images(seed=0):
    return np.random.default_rng(seed).uniform(size=(6, 8, 8, 3)).astype("float32")


def test_update_is_the_moving_average_of_trainable_variables_only():
    networks = _networks()
    target = ema.TargetNetwork(*networks)
    online = [v for n in networks for v in n.trainable_variables]
    follower = [v for n in target.networks for v in n.trainable_variables]
    statistics = [np.array(v) for v in target.non_trainable_variables]
    rng = np.random.default_rng(0)
    expected = [np.array(v, np.float64) for v in online]
    for _ in range(3):
        for i, v in enumerate(online):
            v.assign(rng.normal(size=v.shape))
            expected[i] = 0.9 * expected[i] + 0.1 * np.array(v, np.float64)
        target.update(0.9)
    for value, variable in zip(expected, follower):
        np.testing.assert_allclose(variable, value, atol=1e-6)
    for old, variable in zip(statistics, target.non_trainable_variables):
        np.testing.assert_array_equal(old, variable)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_two_ends_of_the_momentum(momentum):
    encoder, _ = _networks()
    target = ema.TargetNetwork(encoder)
    start = np.array(target.trainable_variables[0])
    encoder.trainable_variables[0].assign_add(tf.ones_like(start))
    target.update(momentum)
    np.testing.assert_allclose(
        target.trainable_variables[0], start + (1 - momentum), rtol=1e-6
    )


def test_it_starts_equal_and_then_has_a_life_of_its_own():
    networks = _networks()
    target = ema.TargetNetwork(*networks)
    x = _images()
    np.testing.assert_array_equal(target(x), networks[1](networks[0](x)))
    before = [np.array(v) for v in networks[0].variables]
    target(x, training=True)
    for old, variable in zip(before, networks[0].variables):
        np.testing.assert_array_equal(old, variable)
    # Its own moving statistics followed its own batch.
    moving = target.networks[0].layers[2].moving_mean
    assert np.abs(np.array(moving)).max() > 0


def test_training_mode_normalizes_by_the_batch():
    """A frozen batch norm would not: the trap behind `trainable = False`."""
    encoder, _ = _networks()
    target = ema.TargetNetwork(encoder)
    conv = encoder.layers[1](_images()).numpy()
    mean, variance = conv.mean((0, 1, 2)), conv.var((0, 1, 2))
    expected = ((conv - mean) / np.sqrt(variance + 1e-5)).mean((1, 2))
    np.testing.assert_allclose(target(_images(), training=True), expected, atol=1e-5)


def test_no_gradient_leaves_it_and_it_owns_no_online_variable():
    networks = _networks()
    target = ema.TargetNetwork(*networks)
    x = tf.constant(_images())
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(target(x, training=True))
    assert tape.gradient(loss, x) is None
    ids = {id(v) for n in networks for v in n.variables}
    assert not ids & {id(v) for v in target.variables}
    assert len(target.variables) == sum(len(n.variables) for n in networks)


def test_the_class_and_settings_of_an_encoder_are_copied():
    encoder = models.resnet(18, width=1 / 16, input_shape=(16, 16, 1), stem="cifar")
    copied = ema.TargetNetwork(encoder).networks[0]
    assert isinstance(copied, models.ResNet)
    assert copied.get_config() == encoder.get_config()


def test_reset_copies_weights_and_statistics():
    networks = _networks()
    target = ema.TargetNetwork(*networks)
    networks[0](_images(), training=True)
    networks[0].trainable_variables[0].assign_add(
        tf.ones_like(networks[0].trainable_variables[0])
    )
    target.reset()
    np.testing.assert_array_equal(
        target(_images()), networks[1](networks[0](_images()))
    )
    assert target.trainable_variables[0].path.startswith("target/")


def test_what_was_frozen_at_first_is_not_trained_without_the_target():
    encoder, projector = _networks()
    encoder.layers[1].trainable = False
    target = ema.TargetNetwork(encoder, projector)
    target.check()
    encoder.layers[1].trainable = True
    with pytest.raises(ValueError, match=r"2 variables of .* were frozen .* anew"):
        target.check()
    ema.TargetNetwork(encoder, projector).check()
    encoder.trainable = False
    target = ema.TargetNetwork(encoder, statistics=True)  # It follows all.
    encoder.trainable = True
    target.check()


def test_a_network_without_a_config_is_refused():
    class Odd(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.dense = keras.layers.Dense(width)

        def call(self, x):
            return self.dense(x)

    network = Odd(3)
    network(tf.zeros((1, 4)))
    with pytest.raises(ValueError, match="cannot be copied .* register its classes"):
        ema.TargetNetwork(network)


@pytest.mark.parametrize(
    "momentum, total_steps, sentence",
    [
        (1.01, None, "momentum=1.01 received, expected a number from 0 to 1"),
        (-0.1, 5, "momentum=-0.1 received"),
        (0.5, 0, "total_steps=0 received, expected 1 or more, or None"),
    ],
)
def test_what_is_no_schedule_is_refused(momentum, total_steps, sentence):
    with pytest.raises(ValueError, match=sentence):
        ema.check_momentum(momentum, total_steps)


def test_momentum_schedule_has_byols_golden_values():
    # 1 - (1 - 0.99) * (cos(pi k / K) + 1) / 2 at k = 0, K/2, K, and beyond.
    for step, expected in ((0, 0.99), (50, 0.995), (100, 1.0), (130, 1.0)):
        assert float(ema.momentum_at(step, 0.99, 100)) == pytest.approx(
            expected, abs=1e-7
        )
    quarter = 1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2
    variable = tf.Variable(25, dtype=tf.int64)
    assert float(ema.momentum_at(variable, 0.99, 100)) == pytest.approx(
        quarter, abs=1e-7
    )
    assert float(ema.momentum_at(1000, 0.999)) == pytest.approx(0.999)

"""Patches that a vision transformer does not see, beside NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import transformer_test
from tfssl import models
from tfssl.models import masked


def made(**changes):
    keras.utils.set_random_seed(0)
    given = dict(depth=2, heads=2, patch=4, input_shape=(12, 12, 3), mlp_ratio=2.0)
    network = models.vit(8, **given | changes)
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    hidden = masked.HiddenPatches()
    hidden.build((None, None, None, 8))
    hidden.token.assign(rng.normal(size=hidden.token.shape))
    return network, hidden


def given(batch=2):
    rng = np.random.default_rng(2)
    images = rng.uniform(size=(batch, 12, 12, 3)).astype("float32")
    return images, rng.uniform(size=(batch, 3, 3)) < 0.4


def slow(network, hidden, images, mask):
    """All of it in loops and float64."""
    patches, tokens = network.get_layer("patches"), network.get_layer("tokens")
    x = np.zeros((len(images), 3, 3, 8))
    for image in range(len(images)):
        for row in range(3):
            for column in range(3):
                cut = images[image, 4 * row :, 4 * column :][:4, :4]
                x[image, row, column] = np.tensordot(cut, np.array(patches.kernel), 3)
                x[image, row, column] += np.array(patches.bias)
                if mask[image, row, column]:
                    x[image, row, column] = np.array(hidden.token)[0, 0]
    if tokens.positions == "learned":
        x = x + np.array(tokens.table)
    x = x.reshape(len(images), 9, 8)
    if tokens.class_token:
        first = np.broadcast_to(np.array(tokens.first), (len(x), 1, 8))
        x = np.concatenate([first, x], axis=1)
    for block in network.block_layers:
        x = transformer_test.numpy_block(x, block)
    last = network.get_layer("features")
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * np.array(last.gamma) + np.array(last.beta)
    return x[:, int(tokens.class_token) :]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(
            relative="shared",
            positions="none",
            layer_scale=0.5,
            class_token=False,
            pooling="mean",
        ),
    ],
)
def test_it_is_its_numpy_form(changes):
    network, hidden = made(**changes)
    images, mask = given()
    found = masked.Masked(network, hidden)(images, mask)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, slow(network, hidden, images, mask), atol=1e-4)


def test_with_nothing_hidden_it_is_the_encoder_and_hidden_pixels_say_nothing():
    network, hidden = made(pooling="mean")
    images, mask = given()
    passes = masked.Masked(network, hidden)
    seen = passes(images, np.zeros_like(mask))
    # The encoder's features are the norm of the mean, these the norm of every token.
    tokens = keras.Model(network.inputs, network.token_outputs)(images)[:, 1:]
    np.testing.assert_allclose(seen, network.get_layer("features")(tokens), atol=1e-6)
    pixels = mask.repeat(4, axis=1).repeat(4, axis=2)[..., np.newaxis]
    other = np.where(pixels, 1 - images, images)
    np.testing.assert_array_equal(passes(other, mask), passes(images, mask))
    assert np.abs(passes(images, mask) - seen).max() > 1e-2


def test_run_block_by_block_it_is_the_same_with_the_same_gradients():
    network, hidden = made(relative="shared", drop_path=0.0)
    images, mask = given()
    passes = masked.Masked(network, hidden)

    def step():
        with tf.GradientTape() as tape:
            found = passes(images, mask, training=True)
            loss = tf.reduce_sum(found[..., 0] ** 2)
        variables = [*network.trainable_variables, hidden.token]
        return loss, tape.gradient(loss, [v.value for v in variables])

    loss, gradients = step()
    assert all(gradient is not None for gradient in gradients)
    network.remat = True
    again, recomputed = step()
    np.testing.assert_allclose(loss, again, rtol=1e-6)
    for old, new in zip(gradients, recomputed, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-5)


def test_half_precision_ends_in_float32():
    network, hidden = made(dtype="mixed_bfloat16")
    images, mask = given()
    found = masked.Masked(network, hidden)(images, mask)
    assert found.dtype == tf.float32
    expected = slow(network, hidden, images, mask)
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_grid_of_an_image():
    network, _ = made()
    assert masked.grid_of(network, 12, 20) == (3, 5)
    with pytest.raises(ValueError, match="which do not divide them"):
        masked.grid_of(network, 12, 14)

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tfssl import models
from tfssl.models import pyramid


def shapes(found):
    return [tuple(output.shape[1:]) for output in found.outputs]


def test_of_a_resnet_the_last_stage_of_every_size():
    network = models.ResNet(18, width=0.25)
    found = pyramid.maps(network, (64, 64, 3))
    assert shapes(found) == [(16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 128)]
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype("float32")
    stages = keras.Model(network.inputs[0], network.stage_outputs)(images)
    for output, name in zip(found(images), ("res2", "res3", "res4", "res5")):
        np.testing.assert_array_equal(output, stages[name])
    # With the stem of small images the stem's map is as large as that of a stage.
    network = models.ResNet(18, width=0.25, stem="cifar")
    assert shapes(pyramid.maps(network, (16, 16, 3)))[0] == (16, 16, 16)


def test_of_a_transformer_blocks_evenly():
    network = models.ViT(8, depth=6, heads=2, patch=4, input_shape=(16, 16, 3))
    found = pyramid.maps(network, (16, 16, 3))
    assert shapes(found) == [(4, 4, 8)] * 4
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    stages = keras.Model(network.inputs[0], network.stage_outputs)(images)
    for output, name in zip(found(images), ("block2", "block3", "block4", "block6")):
        np.testing.assert_allclose(output, stages[name], atol=1e-6)


def test_maps_of_several_sizes_become_pixels():
    network = pyramid.head([(8, 8, 4), (4, 4, 6)], 5, (32, 32), width=16)
    given = [tf.ones((2, 8, 8, 4)), tf.ones((2, 4, 4, 6))]
    found = network(given)
    assert found.shape == (2, 32, 32, 5)
    names = {layer.name for layer in network.layers}
    assert "coarse" not in names and "from_1" in names


def test_the_head_is_the_sum_of_its_levels():
    """One channel in, and all that is between by hand."""
    network = pyramid.head([(2, 2, 1), (1, 1, 1)], 1, (2, 2), width=16)
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    fine, coarse = rng.normal(size=(1, 2, 2, 1)), rng.normal(size=(1, 1, 1, 1))
    found = network([fine.astype("float32"), coarse.astype("float32")])

    def weights(name):
        return [np.array(v, np.float64) for v in network.get_layer(name).weights]

    def judged(x, number):
        (kernel,) = weights(f"judge_{number}")
        padded = np.pad(x[0], [(1, 1), (1, 1), (0, 0)])
        rows, columns = x.shape[1:3]
        out = np.zeros((rows, columns, 16))
        for i in range(rows):
            for j in range(columns):
                window = padded[i : i + 3, j : j + 3]
                out[i, j] = np.einsum("hwc,hwcd->d", window, kernel)
        scale, offset = weights(f"judge_{number}_norm")
        out = (out - out.mean()) / np.sqrt(out.var() + 1e-3) * scale + offset
        return np.array(keras.activations.gelu(tf.constant(out, tf.float64)))

    def lateral(x, number):
        kernel, bias = weights(f"lateral_{number}")
        return x @ kernel[0, 0] + bias

    top = lateral(coarse, 1)
    below = lateral(fine, 0) + top
    kernel, bias = weights("outputs")
    expected = (judged(below, 0) + judged(top, 1)) @ kernel[0, 0] + bias
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_maps_of_one_size_become_a_pyramid():
    network = pyramid.head([(4, 4, 8)] * 4, 3, (64, 64), width=16)
    laterals = [network.get_layer(f"lateral_{i}").output.shape[1] for i in range(4)]
    assert laterals == [16, 8, 4, 2]
    assert network([tf.ones((2, 4, 4, 8))] * 4).shape == (2, 64, 64, 3)
    # A single patch has no half.
    network = pyramid.head([(1, 1, 8)] * 4, 3, (16, 16), width=16)
    assert network.get_layer("lateral_3").output.shape[1] == 1


def test_half_precision_gives_float32():
    network = pyramid.head([(2, 2, 4)], 3, (4, 4), width=16, dtype="mixed_bfloat16")
    assert network.get_layer("judge_0").compute_dtype == "bfloat16"
    assert network(tf.ones((1, 2, 2, 4))).dtype == tf.float32


def test_refused():
    with pytest.raises(ValueError, match="width=20 received, expected a multiple"):
        pyramid.head([(2, 2, 4)], 3, (4, 4), width=20)
    with pytest.raises(ValueError, match="names no stages.*such as resnet50"):
        pyramid.maps(networks.sequential(), (8, 8, 3))
    with pytest.raises(ValueError, match="patches of 4 pixels, which do not divide"):
        network = models.ViT(8, depth=1, heads=2, patch=4, input_shape=(16, 16, 3))
        pyramid.maps(network, (18, 18, 3))

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tfssl.models import feature_maps


def test_stages_and_layers_by_name_and_the_last_map_by_itself():
    network = networks.ours()
    images = networks.pixels()
    stages = keras.Model(network.inputs[0], network.stage_outputs)(images)
    for name in ("res2", "res3"):
        part = feature_maps.up_to(network, name)
        np.testing.assert_array_equal(part(images), stages[name])
    last = feature_maps.up_to(network)(images)
    np.testing.assert_array_equal(last, stages[list(stages)[-1]])
    np.testing.assert_allclose(
        tf.reduce_mean(last, axis=[1, 2]), network(images), atol=1e-6
    )
    sequential = networks.sequential()
    first = sequential.layers[0]
    for name in (first.name, None):
        part = feature_maps.up_to(sequential, name)
        np.testing.assert_array_equal(part(images), first(images))
    assert {id(v) for v in part.variables} == {id(v) for v in sequential.variables}


def test_networks_without_such_a_map():
    with pytest.raises(ValueError, match="'stage9' received, but .* res2, .*res5"):
        feature_maps.up_to(networks.ours(), "stage9")
    with pytest.raises(ValueError, match=r"'none' received, .* are \d+ more, .*_"):
        feature_maps.up_to(networks.application(), "none")
    with pytest.raises(ValueError, match="'own' is no graph of layers.*keras.Model"):
        feature_maps.up_to(networks.own())
    inputs = keras.Input((4,))
    flat = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="flat")
    with pytest.raises(ValueError, match="'flat' has no feature map .*; let it"):
        feature_maps.up_to(flat)
    inputs = keras.Input((8, 8, 3))
    inner = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inner(inputs)))
    with pytest.raises(ValueError, match="is inside of a network of its own"):
        feature_maps.up_to(outer, inner.name)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(3, 4), (12, 5), (7, 9), (20, 1)])
def test_resized_is_tensorflows_antialiased_resize_under_xla_too(size, method):
    maps = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("float32")
    expected = tf.image.resize(maps, size, method, antialias=True)

    @tf.function(jit_compile=True)
    def compiled(maps):
        return feature_maps.resized(maps, size, method)

    for found in (feature_maps.resized(maps, size, method), compiled(maps)):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_maps_of_unknown_size_are_refused():
    @tf.function(input_signature=[tf.TensorSpec([2, None, 3, 1])])
    def resize(maps):
        return feature_maps.resized(maps, (2, 2))

    with pytest.raises(ValueError, match=r"unknown size, \(2, None, 3, 1\).*known"):
        resize.get_concrete_function()

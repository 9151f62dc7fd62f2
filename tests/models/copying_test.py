import sys

import keras
import numpy as np
import pytest

from tests.fixtures import networks
from tfssl import internals, models
from tfssl.models import copying, heads


@pytest.mark.parametrize("kind", ["own", "sequential", "ours"])
def test_a_copy_is_equal_and_has_variables_of_its_own(kind):
    network = getattr(networks, kind)()
    copy = copying.copied(network, "a test")
    images = networks.pixels()
    np.testing.assert_array_equal(network(images), copy(images))
    before = np.array(copy(images))
    network.set_weights([w + 1 for w in network.get_weights()])
    np.testing.assert_array_equal(copy(images), before)


def test_a_copy_normalizes_as_the_network_does():
    layer = keras.layers.Normalization()
    images = networks.pixels()
    layer.adapt(images)
    network = keras.Sequential([keras.Input(images.shape[1:]), layer])
    copy = copying.copied(network, "a test")
    assert np.abs(network(images) - images).max() > 0.1
    np.testing.assert_array_equal(copy(images), network(images))


def test_a_copy_is_not_compiled():
    network = networks.sequential()
    network.compile("adam", "mse")
    assert not copying.copied(network, "a test").compiled


_TINY_RESNET = dict(width=1 / 16, stem="cifar")
# Arguments of a builder of `models.ENCODERS`: one of each kind.
_TINY = {
    "resnet18": dict(_TINY_RESNET, sobel=True, selective_kernels=True),
    "revnet50": dict(width=1 / 16, stem="cifar"),
    "alexnet": dict(width=1 / 32, stem="cifar", sobel=True),
    "vgg16": dict(width=1 / 64),
    "vit_tiny_4": dict(dim=8, depth=2, relative="shared"),
    "vit_large_16": dict(dim=8, depth=1, patch=8, pooling="mean", layer_scale=0.1),
    "branches": dict(
        of="alexnet",
        width=1 / 32,
        stem="cifar",
        depth_channel=3,
        views={"ab": (1, 2), "normals": (4, 5, 6)},
    ),
    "patches": dict(_TINY_RESNET, patch=16, stride=8),
}
_POLICIES = [("float32", "mixed_bfloat16"), ("mixed_bfloat16", "float32")]
# Every kind one way, and either way every other kind.
_ONE_WAY = [
    pytest.param(kind, *way, marks=pytest.mark.slow if (i + j) % 2 else ())
    for i, kind in enumerate(_TINY)
    for j, way in enumerate(_POLICIES)
]


def _encoder(kind, policy):
    channels = 4 if kind == "branches" else 3
    return models.encoder(
        kind, input_shape=(32, 32, channels), dtype=policy, **_TINY[kind]
    )


def _policies(network):
    return [
        (layer.name, layer.dtype_policy.name)
        for layer in internals.layers_of(network)
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def _again(network, tmp_path):
    """What its config and its file give back."""
    config = keras.saving.serialize_keras_object(network)
    of_config = keras.saving.deserialize_keras_object(config)
    of_config.set_weights(network.get_weights())
    network.save(tmp_path / "copy.keras")
    return of_config, keras.saving.load_model(tmp_path / "copy.keras")


@pytest.mark.parametrize("kind, had, asked", _ONE_WAY)
def test_a_copy_is_the_network_that_its_file_gives_back(kind, had, asked, tmp_path):
    network = _encoder(kind, had)
    copy = copying.copied(network, "a test", asked)
    assert copying.policy_of(copy) == asked and copying.policy_of(network) == had
    assert _policies(copy) == _policies(_encoder(kind, asked))
    assert {v.dtype for v in copy.trainable_variables} == {"float32"}
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, copy.input_shape[-1]))
    found = copy(images)
    assert found.dtype == "float32"
    for again in _again(copy, tmp_path):
        assert _policies(again) == _policies(copy)
        np.testing.assert_array_equal(again(images), found)
    np.testing.assert_allclose(found, network(images), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("had, asked", _POLICIES)
def test_layers_of_pixels_and_the_features_stay_wide(had, asked, tmp_path):
    x = images = keras.Input((8, 8, 3))
    for layer in (
        keras.layers.Rescaling(255.0, dtype="float32", name="pixels"),
        keras.layers.Conv2D(4, 3, dtype=had, name="conv"),
        keras.layers.GlobalAveragePooling2D(dtype="float32", name="mean"),
    ):
        x = layer(x)
    network = keras.Model(images, x)
    copy = copying.copied(network, "a test", asked)
    assert copy.get_layer("conv").compute_dtype == asked.removeprefix("mixed_")
    assert copy.get_layer("pixels").compute_dtype == "float32"
    assert copy.get_layer("mean").compute_dtype == "float32"
    assert network.get_layer("conv").dtype_policy.name == had
    for again in _again(copy, tmp_path):
        assert _policies(again) == _policies(copy)
        np.testing.assert_array_equal(again(networks.pixels()), copy(networks.pixels()))


def test_a_network_that_goes_on_into_its_head_is_copied_with_it(tmp_path):
    encoder = networks.ours()
    head = heads.mlp(encoder.output_shape[-1], (6, 4))
    network = models.Headed(encoder, heads.first_layers(head, 1))
    copy = copying.copied(network, "a test", "mixed_bfloat16")
    assert copy(networks.pixels()).dtype == "float32"
    assert copying.policy_of(copy.head) == "mixed_bfloat16"
    for again in _again(copy, tmp_path):
        assert _policies(again) == _policies(copy)
        np.testing.assert_array_equal(again(networks.pixels()), copy(networks.pixels()))


class Unknown(keras.layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, x):
        return x


def test_what_cannot_be_copied_says_so():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, Unknown(3)(inputs), name="mine")
    with pytest.raises(
        ValueError, match="'mine' cannot be copied for a test .*get_config"
    ):
        copying.copied(network, "a test")


def test_what_no_file_gives_back_is_told(monkeypatch):
    inputs = keras.Input((4,))
    shouting = keras.layers.Lambda(lambda x: 2 * x)
    # A class of a script, which this process knows and no other.
    here = type("Here", (keras.layers.Dense,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Here", here, raising=False)
    for layer, reason in (
        (Unknown(3), "could not be deserialized"),
        (shouting, "a Python lambda"),
        (here(3), "could not be deserialized"),
    ):
        told = copying.unreadable(keras.Model(inputs, layer(inputs)))
        assert reason in told and "\n" not in told
    assert copying.unreadable(networks.ours()) is None

"""What was frozen is frozen in a copy and in a file."""

import keras
import numpy as np
import pytest

from tfssl import data, formats, models


def _network(name):
    shape = (64, 64, 3) if name in ("alexnet", "vgg16") else (32, 32, 3)
    if name == "tokenizer":
        sizes = dict(downsampling=4, width=8, blocks=1, decoder_width=8)
        return models.Tokenizer(vocabulary=12, **sizes)
    if name == "vit":
        return models.ViT(16, depth=2, heads=2, patch=16, input_shape=shape)
    if name == "branches":
        arguments = {"of": "resnet18", "width": 0.0625}
        return models.encoder("branches", input_shape=shape, **arguments)
    return models.encoder(name, input_shape=shape, width=0.0625)


@pytest.mark.parametrize(
    "name", ["resnet18", "revnet50", "alexnet", "vit", "branches", "tokenizer"]
)
def test_a_network_is_read_as_frozen_as_it_was(name, tmp_path):
    network = _network(name)
    count = len(network.trainable_variables)
    network.trainable = False
    inputs = keras.Input(network.input_shape[1:])
    outer = keras.Model(inputs, keras.layers.Dense(2)(network(inputs)))
    outer.save(tmp_path / "outer.keras")
    again = keras.saving.load_model(tmp_path / "outer.keras")
    assert len(outer.trainable_variables) == len(again.trainable_variables) == 2
    again.get_layer(network.name).trainable = True
    assert len(again.trainable_variables) == count + 2


@pytest.mark.parametrize("name", ["resnet18", "revnet50", "alexnet", "vit"])
def test_layers_are_read_as_frozen_as_they_were(name, tmp_path):
    network = _network(name)
    for layer in network.layers[: len(network.layers) // 2]:
        layer.trainable = False
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    paths = [[v.path for v in x.trainable_variables] for x in (network, again)]
    assert 0 < len(paths[0]) and paths[0] == paths[1]
    for a, b in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_constructor_freezes():
    assert not models.ResNet(18, width=0.0625, trainable=False).trainable_variables


def test_an_encoder_is_read_as_frozen_as_it_was(tmp_path):
    network = _network("resnet18")
    encoder = formats.Encoder(network, data.Preprocessing(size=32))
    encoder.trainable = False
    encoder.save(tmp_path / "encoder.keras")
    assert not keras.saving.load_model(tmp_path / "encoder.keras").trainable_variables

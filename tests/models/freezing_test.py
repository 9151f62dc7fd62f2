import keras
import numpy as np
import pytest

from tfssl import data, formats, models
from tfssl.models import freezing, headed


def network():
    return models.encoder("resnet18", input_shape=(8, 8, 3), width=0.0625, stem="cifar")


def frozen(model):
    return [layer for layer in model.layers if not layer.trainable]


def test_a_stage_is_frozen_with_all_that_it_needs():
    model = network()
    freezing.freeze(model, "res3")
    needed = keras.Model(model.inputs, model.stage_outputs["res3"]).layers
    assert frozen(model) == needed
    freezing.freeze(model, "conv1")  # What was frozen before thaws.
    assert 0 < len(frozen(model)) < len(needed)
    freezing.freeze(model, "none")
    assert not frozen(model)
    freezing.freeze(model, "all")
    assert frozen(model) == model.layers and not model.trainable_variables


def test_a_layer_of_any_graph_can_be_named():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="second")(x))
    freezing.freeze(model, "first")
    assert [v.path for v in model.trainable_variables] == [
        "second/kernel",
        "second/bias",
    ]
    with pytest.raises(ValueError, match="freeze='third' received.*one of its layers"):
        freezing.freeze(model, "third")
    with pytest.raises(ValueError, match="conv1, res2, res3, res4, res5"):
        freezing.freeze(network(), "stage9")


def test_layers_of_a_head_lie_behind_the_stages():
    encoder = network()
    head = keras.Sequential([keras.Input((encoder.output_shape[-1],)),
                             keras.layers.Dense(5)])  # fmt: skip
    model = headed.Headed(encoder, head)
    depths = freezing.depths(model)
    assert {depths[id(v)] for v in head.variables} == {0}
    assert sorted(set(depths.values())) == [0, 1, 2, 3, 4, 5]
    assert depths[id(encoder.variables[0])] == 5
    assert len(depths) == len(model.variables)


@pytest.mark.parametrize("relative", ["none", "shared", "blocks"])
def test_depths_of_a_transformer_are_those_of_beits_code(relative):
    """Rates are decay ** (L + 1 - id): id 0 before the blocks, i of block i.

    What is behind them and a table of relative positions that they share have id L + 1.
    """
    model = models.vit(
        8, depth=3, patch=4, input_shape=(8, 8, 3), relative=relative, layer_scale=0.1
    )
    ids = {}
    for variable in model.variables:
        name, *_ = variable.path.split("/")
        if name.startswith("block"):
            ids[id(variable)] = int(name.removeprefix("block"))
        else:
            ids[id(variable)] = {"patches": 0, "tokens": 0}.get(name, 4)
    if relative == "shared":
        shared = model.block_layers[0].attention.relative
        ids |= {id(variable): 4 for variable in shared.variables}
    assert set(ids.values()) == {0, 1, 2, 3, 4}
    found = freezing.depths(model)
    assert found == {key: 3 + 1 - number for key, number in ids.items()}


def test_without_stages_there_is_no_depth():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs), name="plain")
    with pytest.raises(ValueError, match="'plain' .*names no stages"):
        freezing.depths(model)


def test_thawing_reaches_inner_models():
    inner = network()
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner])
    inner.trainable = False
    freezing.thaw(outer)
    assert np.all([layer.trainable for layer in inner.layers])


def built(name):
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
    network = built(name)
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
    network = built(name)
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
    network = built("resnet18")
    encoder = formats.Encoder(network, data.Preprocessing(size=32))
    encoder.trainable = False
    encoder.save(tmp_path / "encoder.keras")
    assert not keras.saving.load_model(tmp_path / "encoder.keras").trainable_variables

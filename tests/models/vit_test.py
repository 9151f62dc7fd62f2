"""Vision transformers: sizes, NumPy's form, other sizes of images, what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import transformer_test
from tfssl import models


def _tiny(**changes):
    keras.utils.set_random_seed(0)
    made = dict(depth=2, heads=2, patch=4, input_shape=(12, 12, 3), mlp_ratio=2.0)
    network = models.vit(8, **made | changes)
    random = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(variable + 0.2 * random.normal(size=variable.shape))
    return network


def _images(side=12, count=2):
    random = np.random.default_rng(2)
    return random.uniform(size=(count, side, side, 3)).astype("float32")


def _count(network):
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


# timm's counts without head; the class token has no position of its own here.
@pytest.mark.parametrize(
    "name, expected",
    [
        ("vit_tiny_16", 5_524_416 - 192),
        ("vit_small_16", 21_665_664 - 384),
        ("vit_base_16", 85_798_656 - 768),
        ("vit_large_16", 303_301_632 - 1024),
    ],
)
def test_parameters_and_stages(name, expected):
    with keras.StatelessScope(initialize_variables=False):
        network = models.encoder(name, input_shape=(224, 224, 3))
    assert _count(network) == expected
    assert network.name == name
    dim = network.output_shape[1]
    depth = network.get_config()["depth"]
    blocks = [f"block{i + 1}" for i in range(depth)]
    assert list(network.stage_outputs) == ["patches", *blocks]
    assert {x.shape for x in network.stage_outputs.values()} == {
        (None, None, None, dim)
    }


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_forward_is_its_numpy_form(pooling):
    network = _tiny(pooling=pooling, layer_scale=0.5, relative="shared")
    patches, tokens = network.get_layer("patches"), network.get_layer("tokens")
    x = _images()
    made = np.zeros((2, 3, 3, 8))
    for row in range(3):
        for column in range(3):
            cut = x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            made[:, row, column] = np.tensordot(cut, np.array(patches.kernel), 3)
    made = (made + np.array(patches.bias) + np.array(tokens.table)).reshape(2, 9, 8)
    first = np.broadcast_to(np.array(tokens.first), (2, 1, 8))
    made = np.concatenate([first, made], axis=1)
    for block in network.block_layers:
        made = transformer_test.numpy_block(made, block)
    pooled = made[:, 0] if pooling == "token" else made[:, 1:].mean(axis=1)
    last = network.get_layer("features")
    deviation = np.sqrt(pooled.var(axis=1, keepdims=True) + 1e-6)
    expected = (pooled - pooled.mean(axis=1, keepdims=True)) / deviation
    expected = expected * np.array(last.gamma) + np.array(last.beta)
    np.testing.assert_allclose(network(x), expected, atol=1e-4)


def test_a_distillation_token_is_seen_and_leaves_with_the_class_token():
    network, x = _tiny(distillation_token=True, layer_scale=0.5), _images()
    tokens = network.get_layer("tokens")
    maps = network.get_layer("patches")(x)
    places = np.array(tokens.table).reshape(1, 9, 8)
    own = np.concatenate([np.array(tokens.first), np.array(tokens.second)], axis=1)
    made = np.concatenate(
        [np.tile(own, (2, 1, 1)), np.array(maps).reshape(2, 9, 8) + places], axis=1
    )
    for block in network.block_layers:
        made = transformer_test.numpy_block(made, block)
    last = network.get_layer("features")
    deviation = np.sqrt(made.var(axis=2, keepdims=True) + 1e-6)
    made = (made - made.mean(axis=2, keepdims=True)) / deviation
    made = made * np.array(last.gamma) + np.array(last.beta)
    assert network.output_shape == (None, 16)
    expected = np.concatenate([made[:, 0], made[:, 1]], axis=1)
    np.testing.assert_allclose(network(x), expected, atol=1e-4)
    plain = _tiny(layer_scale=0.5)
    assert _count(network) == _count(plain) + 8
    assert network.stage_outputs["block2"].shape == plain.stage_outputs["block2"].shape
    again = type(network).from_config(network.get_config())
    again.set_weights(network.get_weights())
    np.testing.assert_array_equal(again(x), network(x))


def test_a_shared_table_is_one_and_others_are_as_many_as_blocks():
    tables = lambda n: [v for v in n.variables if v.path.endswith("/offsets")]  # noqa: E731
    assert len(tables(_tiny(relative="shared"))) == 1
    assert len(tables(_tiny(relative="blocks"))) == 2
    assert not tables(_tiny())


def test_stages_are_maps_of_the_patches():
    network = _tiny()
    last = keras.Model(network.inputs, network.stage_outputs["block2"])
    maps = np.array(last(_images(20)))
    assert maps.shape == (2, 5, 5, 8)
    tokens = keras.Model(network.inputs, network.token_outputs)
    np.testing.assert_array_equal(maps.reshape(2, 25, 8), tokens(_images(20))[:, 1:])


def test_images_of_other_sizes_get_interpolated_positions():
    fixed = _tiny(relative="blocks")
    any_size = _tiny(input_shape=(None, None, 3), position_side=12, relative="blocks")
    any_size.set_weights(fixed.get_weights())
    np.testing.assert_array_equal(any_size(_images()), fixed(_images()))
    made = any_size(_images(20))
    np.testing.assert_array_equal(fixed(_images(20)), made)
    # Positions matter at the other size, too.
    fixed.get_layer("tokens").table.assign(np.zeros((3, 3, 8)))
    any_size.set_weights(fixed.get_weights())
    assert np.abs(np.array(any_size(_images(20)) - made)).max() > 1e-3


@pytest.mark.parametrize("init", ["truncated_normal", "xavier", "beit"])
def test_kernels_start_as_the_papers_say(init):
    network = models.vit(
        128, depth=2, patch=4, input_shape=(16, 16, 3), init=init, positions="sincos"
    )
    limit = np.sqrt(6 / 256)
    expected = {
        "truncated_normal": (0.02, 0.02, 0.02),
        "xavier": (limit / np.sqrt(3), limit / np.sqrt(3), np.sqrt(2 / 640)),
        "beit": (0.02, 0.01, 0.01),
    }[init]
    block = network.block_layers[1]
    kernels = (
        block.attention.qkv.kernel,
        block.attention.projection.kernel,
        block.output_layer.kernel,
    )
    for kernel, deviation in zip(kernels, expected):
        assert np.std(np.array(kernel)) == pytest.approx(deviation, rel=0.05)
    if init != "xavier":
        maps = network.get_layer("patches").kernel
        assert np.std(np.array(maps)) == pytest.approx(0.02, rel=0.05)


def test_frozen_patches_get_no_gradient_and_all_else_does():
    network = _tiny(freeze_patches=True, positions="sincos", relative="shared")
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(network(_images(), training=True) ** 3)
    for variable in network.get_layer("patches").variables:
        assert tape.gradient(loss, variable.value) is None
    learned = network.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in learned])
    assert not [v.path for v in learned if v.path.startswith("patches")]
    assert all(np.abs(np.array(g)).max() > 0 for g in gradients)


def test_file_and_config_give_the_same_network(tmp_path):
    network = _tiny(drop_path=0.2, layer_scale=0.1, relative="shared", pooling="mean")
    network.save(tmp_path / "vit.keras")
    again = keras.saving.load_model(tmp_path / "vit.keras")
    assert type(again) is models.ViT
    assert again.get_config() == network.get_config()
    np.testing.assert_array_equal(again(_images()), network(_images()))


def test_blocks_computed_again_give_the_same_gradients():
    network = _tiny(relative="shared", layer_scale=0.5)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(_images(), training=True) ** 3)
        return tape.gradient(loss, [v.value for v in network.trainable_variables])

    plain = gradients()
    network.remat = True
    for a, b in zip(plain, gradients(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_features_are_float32_under_mixed_precision_and_xla():
    network = _tiny(dtype="mixed_bfloat16", relative="shared")
    wide = _tiny(relative="shared")
    compiled = tf.function(network, jit_compile=True)(_images())
    assert compiled.dtype == tf.float32
    np.testing.assert_allclose(compiled, wide(_images()), atol=0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(input_shape=(30, 32, 3)), "30 x 32 pixels.*patches of 4.*multiples of 4"),
        (dict(position_side=30), "30 x 30 pixels.*patches of 4"),
        (dict(heads=3), "dim=8 received with heads=3"),
        (dict(positions="sines"), "positions='sines'"),
        (dict(pooling="token", class_token=False), "pooling='mean'"),
        (dict(drop_path=1.0), "drop_path=1.0"),
        (dict(distillation_token=True, pooling="mean"), "pooling='mean'.*'token'"),
        (dict(distillation_token=True, relative="shared"), "relative='shared'.*'none'"),
        (dict(input_shape=(32, 32)), "height, width, channels"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        _tiny(**arguments)


def test_images_that_the_patch_does_not_divide_are_refused():
    network = keras.Sequential([_tiny(input_shape=(None, None, 3))])
    with pytest.raises(ValueError, match="10 x 10 pixels.*multiples of 4, as 8"):
        models.check_images(network, 10, 10)
    with pytest.raises(ValueError, match="10 x 10 pixels"):
        network(_images(10))


@pytest.mark.parametrize("relative", ["shared", "blocks"])
def test_relative_positions_refuse_a_grid_of_as_many_patches(relative):
    network = _tiny(input_shape=(16, 16, 3), relative=relative)
    for refused in (
        lambda: network(np.zeros((1, 8, 32, 3), "float32")),
        lambda: network.check_images(8, 32),
    ):
        with pytest.raises(ValueError, match="2 x 8 patches received by .* 4 x 4 pat"):
            refused()
    network.check_images(24, 24)
    _tiny(input_shape=(16, 16, 3)).check_images(8, 32)

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import data, formats, models
from tfssl.models import freezing


def _tiny(**kwargs):
    return models.revnet(**{"width": 1 / 16, "stem": "cifar"} | kwargs)


@pytest.fixture
def network():
    """A tiny network of random scales and offsets, and images."""
    keras.utils.set_random_seed(0)
    model = _tiny(input_shape=(8, 8, 3))
    rng = np.random.default_rng(0)
    for v in model.variables:
        if v.path.endswith(("gamma", "moving_variance")):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.path.endswith(("beta", "moving_mean")):
            v.assign(rng.normal(size=v.shape))
    return model, rng.uniform(size=(4, 8, 8, 3)).astype(np.float32)


def _unit(half):
    """Weights of a block: three norms and three convolutions of a half's channels."""
    inner = half // 4
    kernels = half * inner + 9 * inner**2 + inner * half
    return 2 * (half + inner + inner) + kernels


@pytest.mark.parametrize("width, stem, side", [(1, "imagenet", 7), (4, "cifar", 3)])
def test_parameter_counts(width, stem, side):
    with keras.StatelessScope(initialize_variables=False):
        model = models.encoder(
            "revnet50", input_shape=(None, None, 3), width=width, stem=stem
        )
    expected = side**2 * 3 * 256 * width + 2 * 2048 * width
    for stage, count in enumerate((3, 4, 6, 3)):
        expected += count * _unit(128 * width * 2**stage)
    found = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert found == expected
    if width == 1:
        assert found == 5_408_640
    assert model.name == "revnet50" and model.output_shape == (None, 2048 * width)


@pytest.mark.parametrize("stem, sides", [("imagenet", (32, 16)), ("cifar", (64, 64))])
def test_stages(stem, sides):
    with keras.StatelessScope(initialize_variables=False):
        model = models.revnet(stem=stem, input_shape=(64, 64, 2))
    first, second = sides
    assert {k: tuple(x.shape[1:]) for k, x in model.stage_outputs.items()} == {
        "conv1": (first, first, 256),
        "res2": (second, second, 256),
        "res3": (second // 2, second // 2, 512),
        "res4": (second // 4, second // 4, 1024),
        "res5": (second // 8, second // 8, 2048),
    }
    assert list(model.pyramid_outputs) == ["P2", "P3", "P4", "P5"]


def _tensor(model, name):
    return model.get_layer(name).output


@pytest.mark.parametrize("training", [False, True])
def test_the_input_of_every_block_comes_back_from_its_output(network, training):
    """In float64 to its last digits; also by the moments of the batch."""
    model, images = network
    with keras.device("cpu"):
        double = models.RevNet.from_config(model.get_config() | {"dtype": "float64"})
        double.set_weights(model.get_weights())
    names = [f"stack{s}_block{i}" for s, n in enumerate((3, 4, 6, 3)) for i in range(n)]
    for name in names:
        halves = [_tensor(double, f"{name}_{kind}") for kind in ("moved", "still")]
        both = keras.Model(double.inputs[0], [*halves, _tensor(double, f"{name}_out")])
        moved, still, output = both(images, training=training)
        branch = keras.Model(halves[1], _tensor(double, f"{name}_3_conv"))
        first, second = np.split(np.asarray(output), 2, axis=-1)
        found = second - np.asarray(branch(first, training=training))
        assert np.abs(found - second).max() > 0.1
        np.testing.assert_allclose(found, moved, atol=1e-12)
        np.testing.assert_array_equal(first, still)


def test_features_equal_the_plain_formula(network):
    model, images = network
    values = {v.path: v.numpy() for v in model.variables}

    def norm_relu(x, name):
        gamma, beta, mean, variance = (
            values[f"{name}_bn/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    def conv(x, name):
        return tf.nn.conv2d(x, values[f"{name}_conv/kernel"], 1, "SAME").numpy()

    x = conv(images, "conv1")
    for stage, count in enumerate((3, 4, 6, 3)):
        if stage:
            n, side, _, c = x.shape
            x = x.reshape(n, side // 2, 2, side // 2, 2, c).mean((2, 4))
            x = np.pad(x, [(0, 0)] * 3 + [(c // 2, c // 2)])
        for i in range(count):
            half = x.shape[-1] // 2
            inner = x[..., half:]
            for k in (1, 2, 3):
                name = f"stack{stage}_block{i}_{k}"
                inner = conv(norm_relu(inner, name), name)
            x = np.concatenate([x[..., half:], x[..., :half] + inner], -1)
    expected = norm_relu(x, "last").mean((1, 2))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


def test_files_give_the_network_back(network, tmp_path):
    model, images = network
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(again, models.RevNet)
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(again(images), model(images))
    encoder = formats.Encoder(model, data.Preprocessing(8))
    path = formats.saved_model(encoder, str(tmp_path / "saved"), name="revnet")
    loaded = tf.saved_model.load(path)
    found = loaded.signatures["float_images"](tf.constant(images))["features"]
    np.testing.assert_allclose(found, model(images), rtol=1e-5, atol=1e-5)


def test_freezing_and_depths(network):
    model, _ = network
    freezing.freeze(model, "res3")
    learned = {v.path for v in model.trainable_variables}
    assert not any(p.startswith(("conv1", "stack0", "stack1")) for p in learned)
    assert {p for p in (v.path for v in model.variables) if "stack2" in p} & learned
    depths = freezing.depths(model)
    by_path = {v.path: depths[id(v)] for v in model.variables}
    assert by_path["conv1_conv/kernel"] == 5
    assert by_path["stack2_block0_1_conv/kernel"] == 2
    assert by_path["last_bn/gamma"] == 1


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_reach_all_weights_and_are_those_of_remat(network, policy):
    model, images = network
    config = model.get_config() | {"dtype": policy}
    found = []
    for remat in (False, True):
        one = models.RevNet.from_config(config)
        one.set_weights(model.get_weights())
        one.remat = remat
        with tf.GradientTape() as tape:
            features = one(images, training=True)
            assert features.dtype == "float32"
            loss = tf.reduce_mean(features**2)
        found.append(tape.gradient(loss, one.trainable_variables))
    assert all(np.abs(g).max() > 0 for g in found[0])
    if policy == "float32":
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"stem": "vit"}, "stem must be one of .*'vit'"),
        ({"width": 1 / 64}, "width must be at least 8 / 256, got"),
        ({"norm": "group"}, "norm must be one of"),
        ({"init": "he"}, "init must be one of"),
        ({"norm": "layer", "norm_statistics": "global"}, "leave norm_statistics out"),
        ({"input_shape": (8, 8)}, "input_shape must be"),
    ],
)
def test_arguments_that_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        _tiny(**given)

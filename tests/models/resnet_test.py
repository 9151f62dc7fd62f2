import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.small_resnets import images, tiny
from tfssl import models


def _num_parameters(**kwargs):
    # Variables of this scope have a shape, but no value and no memory.
    with keras.StatelessScope(initialize_variables=False):
        model = models.resnet(**kwargs)
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# Without classifier. Width 1 and 2: the 24, 94, 375, 58, 232 and 250 million of
# the SimCLR papers.
@pytest.mark.parametrize(
    "depth, width, stem, expected",
    [
        (18, 1, "imagenet", 11_180_736),
        (18, 1, "cifar", 11_173_056),
        (34, 1, "imagenet", 21_288_896),
        (50, 1, "imagenet", 23_508_032),
        (50, 1, "cifar", 23_500_352),
        (50, 2, "imagenet", 93_907_072),
        (50, 4, "imagenet", 375_378_176),
        (101, 1, "imagenet", 42_500_160),
        (152, 1, "imagenet", 58_143_808),
        (152, 2, "imagenet", 232_253_568),
        (200, 2, "imagenet", 250_128_512),
    ],
)
def test_parameter_counts(depth, width, stem, expected):
    assert _num_parameters(depth=depth, width=width, stem=stem) == expected


def test_161_is_the_first_stages_of_101_with_a_wide_third():
    with keras.StatelessScope(initialize_variables=False):
        model = models.resnet(161, norm="layer")
    kernels = [v.shape for v in model.variables if v.path.endswith("kernel")]
    # The convolutions of the blocks and the stem; those of the shortcuts do not count.
    assert len(kernels) - 3 == 3 * (3 + 4 + 46) + 1
    assert sum(int(np.prod(shape)) for shape in kernels) == 303_162_560
    assert model.output_shape == (None, 4096)
    assert list(model.stage_outputs) == ["conv1", "res2", "res3", "res4"]


# SimCLRv2, table 1, "with SK": 35, 140, 65, 257, 89, 354 and 795 million.
@pytest.mark.parametrize(
    "depth, width, expected",
    [
        (50, 1, 35_215_584),
        (50, 2, 140_306_048),
        (101, 1, 64_662_304),
        (101, 2, 257_132_224),
        (152, 1, 88_940_896),
        (152, 2, 353_398_528),
        (152, 3, 794_704_160),
    ],
)
def test_parameter_counts_with_selective_kernels(depth, width, expected):
    found = _num_parameters(depth=depth, width=width, selective_kernels=True)
    assert found == expected


# torchvision's resnet18 and resnet34 less the 513,000 of their classifier.
@pytest.mark.parametrize("depth, expected", [(18, 11_176_512), (34, 21_284_672)])
def test_parameter_counts_without_first_projection(depth, expected):
    assert _num_parameters(depth=depth, projection_in_first_block=False) == expected


@pytest.mark.parametrize("zero", [True, False])
def test_last_norm_of_every_branch_starts_at_zero_or_one(zero):
    model = models.resnet(50, width=1 / 16, zero_init_residual=zero)
    gammas = {v.path: v.numpy() for v in model.variables if v.path.endswith("gamma")}
    last = {path for path in gammas if path.endswith("_3_bn/gamma")}
    assert len(last) == 16
    for path, value in gammas.items():
        assert (value == (0 if zero and path in last else 1)).all(), path


# Standard deviations of the 7x7 stem, of a 3x3 convolution of 64 channels and of
# their 1x1 shortcut, from the authors' code: He normal by fan out in torchvision,
# facebookresearch/swav and moco; 1 / fan in in google-research/simclr; kaiming_uniform_
# with a = sqrt(5) in PyTorch's own layers.
@pytest.mark.parametrize(
    "init, expected",
    [
        ("simclr", (0.0825, 0.0417, 0.1250)),
        ("torchvision", (0.0253, 0.0589, 0.1768)),
        ("torch", (0.0476, 0.0241, 0.0722)),
    ],
)
def test_kernels_start_as_in_the_authors_code(init, expected):
    model = models.resnet(18, init=init)
    kernels = {v.path: v.numpy() for v in model.variables if "kernel" in v.path}
    first = ("conv1", "stack0_block0_1", "stack0_block0_0")
    found = [kernels[f"{name}_conv/kernel"].std() for name in first]
    # Of 4,096 values or more: the deviation's own error is below 1.1 %.
    np.testing.assert_allclose(found, expected, rtol=0.04)
    for path, kernel in kernels.items():
        side, _, fan_in, fan_out = kernel.shape
        variance = {
            "simclr": 1 / (side**2 * fan_in),
            "torchvision": 2 / (side**2 * fan_out),
            "torch": 1 / (3 * side**2 * fan_in),
        }[init]
        assert kernel.std() == pytest.approx(variance**0.5, rel=0.04), path
        # A uniform form ends at sqrt(3) deviations, one cut at two at 2 / 0.88.
        low, high = {"torch": (1.7, 1.8), "simclr": (2.2, 2.4)}.get(init, (3.0, 7.0))
        assert low < np.abs(kernel).max() / kernel.std() < high, path
    alike = [k for k in kernels.values() if k.shape == (3, 3, 512, 512)]
    assert len(alike) == 3
    assert np.abs(alike[0] - alike[1]).max() > 0.01


def test_the_small_stem_beside_torchvisions_layers_is_a_layer_of_pytorch():
    model = models.resnet(18, stem="cifar", init="torchvision")
    kernels = {v.path: v.numpy() for v in model.variables if "kernel" in v.path}
    # nn.Conv2d(3, 64, 3): uniform up to 1 / sqrt(27).
    stem = kernels["conv1_conv/kernel"]
    assert np.abs(stem).max() == pytest.approx(27**-0.5, rel=0.01)
    assert stem.std() == pytest.approx(81**-0.5, rel=0.04)
    assert kernels["stack0_block0_1_conv/kernel"].std() == pytest.approx(0.0589, 0.04)


def test_a_config_of_before_these_arguments_is_read():
    config = tiny(name="old").get_config()
    for name in (
        "init", "zero_init_residual", "norm_replica_groups", "selective_kernels",
        "selective_ratio",
    ):  # fmt: skip
        del config[name]
    again = models.ResNet.from_config(config)
    assert (again.init, again.zero_init_residual) == ("simclr", True)
    assert not any("mixers" in v.path or "conv1_1" in v.path for v in again.variables)
    gamma = next(v for v in again.variables if "stack0_block0_2_bn/gamma" in v.path)
    np.testing.assert_array_equal(gamma, np.zeros(4))


@pytest.mark.parametrize(
    "norm, statistics",
    [("batch", "local"), ("batch_global", "global"), ("batch_split", "split")],
)
def test_a_config_of_before_norm_statistics_is_read(norm, statistics):
    config = tiny().get_config() | {"norm": norm}
    del config["norm_statistics"]
    assert models.ResNet.from_config(config).norm_statistics == statistics


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dtype": "mixed_bfloat16", "padding": "same", "norm_statistics": "global"},
        {"stem": "cifar", "projection_in_first_block": False, "name": "small"},
        {"stem": "cifar", "sobel": True},
        {"init": "torchvision", "zero_init_residual": False},
        {"norm_statistics": "global", "norm_replica_groups": 8},
        {"selective_kernels": True, "selective_ratio": 1.0, "padding": "same"},
        {"selective_kernels": True, "stem": "cifar", "dtype": "mixed_bfloat16"},
    ],
)
def test_keras_file_round_trip(tmp_path, kwargs):
    model = tiny(input_shape=(32, 32, 4), **kwargs)
    model.trainable = False
    path = str(tmp_path / "encoder.keras")
    model.save(path)
    again = keras.saving.load_model(path)
    assert isinstance(again, models.ResNet)
    assert again.get_config() == model.get_config()
    assert again.dtype_policy.name == kwargs.get("dtype", "float32")
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    assert not again.trainable_variables
    x = images((2, 32, 32, 4))
    np.testing.assert_array_equal(again(x), model(x))
    maps = keras.Model(again.input, again.pyramid_outputs)(x)
    originals = keras.Model(model.input, model.pyramid_outputs)(x)
    for level in ("P2", "P3", "P4", "P5"):
        np.testing.assert_array_equal(
            tf.cast(maps[level], tf.float32), tf.cast(originals[level], tf.float32)
        )


def test_copy_from_config_and_default_name():
    model = tiny(name="teacher")
    copy = models.ResNet.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert [v.path for v in copy.variables] == [v.path for v in model.variables]
    assert models.resnet(18, width=1 / 16).name == "resnet18"


@pytest.mark.parametrize(
    "stem, depth, sizes, channels",
    [
        ("imagenet", 18, (16, 8, 4, 2), (4, 8, 16, 32)),
        ("imagenet", 50, (16, 8, 4, 2), (16, 32, 64, 128)),
        ("cifar", 18, (64, 32, 16, 8), (4, 8, 16, 32)),
    ],
)
@pytest.mark.parametrize("selective", [False, True])
def test_pyramid_shapes(stem, depth, sizes, channels, selective):
    model = models.resnet(
        depth,
        width=1 / 16,
        stem=stem,
        input_shape=(64, 64, 3),
        selective_kernels=selective,
    )
    shapes = {level: x.shape for level, x in model.pyramid_outputs.items()}
    assert shapes == {
        f"P{n}": (None, size, size, count)
        for n, size, count in zip(range(2, 6), sizes, channels)
    }
    assert model.output_shape == (None, channels[-1])


@pytest.mark.parametrize("stem, first", [("imagenet", 32), ("cifar", 64)])
@pytest.mark.parametrize("selective", [False, True])
def test_stages_are_the_stem_and_the_pyramid(stem, first, selective):
    model = models.resnet(
        18,
        width=1 / 16,
        stem=stem,
        input_shape=(64, 64, 3),
        selective_kernels=selective,
    )
    assert list(model.stage_outputs) == ["conv1", "res2", "res3", "res4", "res5"]
    assert model.stage_outputs["conv1"].shape == (None, first, first, 4)
    for number in range(2, 6):
        stage = model.stage_outputs[f"res{number}"]
        assert stage is model.pyramid_outputs[f"P{number}"]
    maps = keras.Model(model.inputs, list(model.stage_outputs.values()))
    for x in maps([images((2, 64, 64, 3))]):
        assert float(tf.reduce_min(x)) == 0 < float(tf.reduce_max(x))  # ReLU.


@pytest.mark.parametrize("channels", [1, 3])
def test_sobel_comes_first(channels):
    """A ResNet of edges is a ResNet whose images are edges."""
    model = tiny(sobel=True, input_shape=(None, None, channels))
    plain = tiny(input_shape=(None, None, 2))
    plain.set_weights(model.get_weights())
    x = images((2, 33, 32, channels))
    np.testing.assert_array_equal(model(x), plain(models.sobel.Sobel()(x)))
    assert model.get_config()["sobel"] and not plain.get_config()["sobel"]


@pytest.mark.parametrize(
    "channels, selective",
    [(1, False), (3, False), (4, False), (13, False), (13, True)],
)
def test_any_channels_and_sizes(channels, selective):
    model = models.resnet(
        18,
        width=1 / 16,
        input_shape=(None, None, channels),
        selective_kernels=selective,
    )
    for size in ((32, 32), (17, 40)):
        features = model(images((2, *size, channels)))
        assert features.shape == (2, 32)
        assert np.isfinite(features).all()


@pytest.mark.parametrize(
    "dtype",
    [pytest.param("mixed_float16", marks=pytest.mark.slow), "mixed_bfloat16"],
)
@pytest.mark.parametrize("selective", [False, True])
def test_mixed_precision(dtype, selective):
    kwargs = dict(input_shape=(32, 32, 3), selective_kernels=selective)
    exact, mixed = tiny(**kwargs), tiny(dtype=dtype, **kwargs)
    mixed.set_weights(exact.get_weights())
    x = images((2, 32, 32, 3))
    features = mixed(x)
    assert features.dtype == tf.float32
    assert mixed.pyramid_outputs["P5"].dtype == dtype.removeprefix("mixed_")
    assert {v.dtype for v in mixed.variables} == {"float32"}
    expected = exact(x).numpy()
    # 20 convolutions with relative errors of 2**-8 (bfloat16) each at most.
    error = np.abs(features - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.05


@pytest.mark.parametrize(
    "selective", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_every_variable_has_a_gradient_and_xla_agrees(selective):
    model = tiny(input_shape=(32, 32, 3), selective_kernels=selective)
    # Of few images the pooled streams of some channel are alike: a norm's worst case.
    x = tf.constant(images((16, 32, 32, 3)))

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    plain = tf.function(gradients)(x)
    assert all(float(tf.reduce_max(tf.abs(g))) > 0 for g in plain)
    scale = max(float(tf.reduce_max(tf.abs(g))) for g in plain)
    for ours, theirs in zip(tf.function(gradients, jit_compile=True)(x), plain):
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4)


@pytest.mark.parametrize("statistics", ["local", "global", "split"])
@pytest.mark.parametrize("selective", [False, True])
def test_norm_statistics(statistics, selective):
    model = models.resnet(
        18, width=1 / 16, norm_statistics=statistics, selective_kernels=selective
    )
    found = [x for x in model.layers if isinstance(x, models.norms.BatchNorm)]
    # 17 convolutions and 4 shortcuts; 2 more in the stem and 8 between the scores.
    assert len(found) == (31 if selective else 21)
    assert {layer.statistics for layer in found} == {statistics}
    group_size = 32 if statistics == "split" else None
    assert {layer.group_size for layer in found} == {group_size}
    assert {layer.replica_groups for layer in found} == {1}
    assert {(layer.momentum, layer.epsilon) for layer in found} == {(0.9, 1e-5)}


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"depth": 20}, "depth must be one of .* got 20"),
        ({"width": 0.01}, "width .* 1 / 64, got 0.01"),
        ({"width": 1 / 64, "selective_kernels": True}, "width .* 2 / 64, got 0.0156"),
        ({"selective_kernels": True, "selective_ratio": 0}, r"in \(0, 1\], got 0"),
        ({"stem": "tiny"}, "stem must be one of .* got 'tiny'"),
        ({"norm_statistics": "layer"}, "norm_statistics must be one of .* got 'layer'"),
        ({"padding": "valid"}, "padding must be one of .* got 'valid'"),
        ({"init": "he"}, "init must be one of .*'torchvision'.* got 'he'"),
        ({"input_shape": (32, 32)}, r"input_shape .* got \(32, 32\)"),
        ({"input_shape": (32, 32, None)}, r"input_shape .* got \(32, 32, None\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        models.resnet(**{"depth": 18, **kwargs})

"""AlexNet and VGG against NumPy, and what they share."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import models
from tfssl.models import feedforward

# Builder, and for the NumPy form: per stage the strides and padding of its
# convolutions, and the pool.
_NETWORKS = {
    "alexnet": (
        functools.partial(models.alexnet, input_shape=(67, 80, 3), width=1 / 32),
        [([(4, 2)], 3), ([(1, 2)], 3), ([(1, 1)], 0), ([(1, 1)], 0), ([(1, 1)], 3)],
    ),
    "alexnet_cifar": (
        functools.partial(
            models.alexnet, input_shape=(32, 33, 3), width=1 / 32, stem="cifar"
        ),
        [([(1, 1)], 3), ([(1, 1)], 3), ([(1, 1)], 0), ([(1, 1)], 0), ([(1, 1)], 3)],
    ),
    "vgg16": (
        functools.partial(models.vgg, input_shape=(32, 35, 3), width=1 / 32),
        [([(1, 1)] * count, 2) for count in (2, 2, 3, 3, 3)],
    ),
}
_each_network = pytest.mark.parametrize("network", list(_NETWORKS))


def _tiny(network, **kwargs):
    """A small network whose every variable has a value of its own."""
    keras.utils.set_random_seed(0)
    model = _NETWORKS[network][0](**kwargs)
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.split("/")[-1] in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.path.split("/")[-1] in ("bias", "beta", "moving_mean"):
            variable.assign(random.normal(0, 0.3, variable.shape))
        elif variable.path.startswith("fc"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def _images(model, count=2, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _windows(x, size, stride):
    for i in range(size):
        for j in range(size):
            rows = x[:, i : x.shape[1] - size + 1 + i : stride]
            yield i, j, rows[:, :, j : x.shape[2] - size + 1 + j : stride]


def _in_numpy(model, x, stages):
    """Features and stages in float64, written from DeepCluster's description."""
    values = {v.path: v.numpy().astype(np.float64) for v in model.variables}
    maps = []
    for stage, (convolutions, pool) in enumerate(stages, start=1):
        for i, (stride, padding) in enumerate(convolutions, start=1):
            name = f"conv{stage}" + (f"_{i}" if len(convolutions) > 1 else "")
            kernel = values[f"{name}_conv/kernel"]
            x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
            x = sum(w @ kernel[i, j] for i, j, w in _windows(x, len(kernel), stride))
            x = x + values[f"{name}_conv/bias"]
            x = (x - values[f"{name}_bn/moving_mean"]) / np.sqrt(
                values[f"{name}_bn/moving_variance"] + 1e-5
            )
            x = x * values[f"{name}_bn/gamma"] + values[f"{name}_bn/beta"]
            x = np.maximum(x, 0)
        maps.append(x)
        if pool:
            x = np.max([w for _, _, w in _windows(x, pool, 2)], axis=0)
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ values["fc6/kernel"] + values["fc6/bias"], 0)
    return x @ values["fc7/kernel"] + values["fc7/bias"], maps


@pytest.mark.parametrize("sobel", [False, True])
@_each_network
def test_forward_and_stages_match_numpy(network, sobel):
    model = _tiny(network, sobel=sobel)
    images = _images(model)
    first = models.sobel.Sobel()(images) if sobel else images
    stages = _NETWORKS[network][1]
    expected, maps = _in_numpy(model, np.asarray(first, np.float64), stages)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(images) / scale, expected / scale, atol=1e-5)
    assert (expected < 0).any()  # No ReLU behind the features.
    assert list(model.stage_outputs) == [f"conv{i}" for i in range(1, 6)]
    found = keras.Model(model.inputs, list(model.stage_outputs.values()))([images])
    for ours, theirs in zip(found, maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@_each_network
def test_keras_file_round_trip(tmp_path, network, dtype):
    model = _tiny(
        network,
        sobel=True,
        dtype=dtype,
        norm_statistics="split",
        dropout=0.3,
        name="one",
    )
    model.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    assert type(again) is type(model)
    assert again.get_config() == model.get_config()
    assert again.dtype_policy.name == dtype
    images = _images(model)
    np.testing.assert_array_equal(again(images), model(images))
    assert again(images).dtype == tf.float32
    assert again.stage_outputs["conv5"].dtype == dtype.removeprefix("mixed_")
    assert {v.dtype for v in again.trainable_variables} == {"float32"}


def test_mixed_precision_takes_edges_in_float32():
    """Images brighter than their edges: in bfloat16 the edges would be rounding."""
    images = 100 + 0.1 * _images(_tiny("vgg16"))
    exact, mixed = (
        _tiny("vgg16", sobel=True, dtype=dtype)
        for dtype in ("float32", "mixed_bfloat16")
    )
    edges = [keras.Model(m.input, m.get_layer("sobel").output) for m in (exact, mixed)]
    np.testing.assert_array_equal(edges[0](images), edges[1](images))
    scale = np.abs(exact(images)).max()
    error = np.abs(exact(images) - mixed(images)).max() / scale
    # 15 layers with relative errors of 2**-8 each at most.
    assert 0 < error < 0.06


@_each_network
def test_initial_values(network):
    model = _NETWORKS[network][0](width=1 / 8)
    for variable in model.variables:
        value, name = variable.numpy(), variable.path
        if name.endswith("conv/kernel"):
            # Normal with variance 2 / (area * filters); the error of the deviation
            # of n values is 1 / sqrt(2 n).
            deviation = value.std() * np.sqrt(value[..., 0, :].size / 2)
            assert abs(deviation - 1) < 4 / np.sqrt(2 * value.size)
        elif name.endswith("kernel"):
            assert value.std() == pytest.approx(0.01, rel=0.02)
            assert np.abs(value).max() > 0.03  # Not truncated.
        elif not name.endswith("seed_generator_state"):
            assert (
                value == (name.split("/")[-1] in ("gamma", "moving_variance"))
            ).all()


@pytest.mark.parametrize(
    "network, rates", [("alexnet", (0.4, 0.4)), ("vgg16", (None, 0.4))]
)
def test_dropout_only_in_training(network, rates):
    model = _tiny(network, dropout=0.4)
    images = _images(model)
    np.testing.assert_array_equal(model(images), model(images))
    # Batch norm changes training too, but not from call to call.
    one, two = (model(images, training=True) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3 * np.abs(one).max()
    found = {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    }
    named = zip(("fc6_dropout", "fc7_dropout"), rates)
    assert found == {name: rate for name, rate in named if rate is not None}
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    assert len(states) == len(found)
    still = _tiny(network, dropout=0)
    np.testing.assert_array_equal(
        still(images, training=True), still(images, training=True)
    )


@_each_network
def test_every_variable_has_a_gradient_and_sobel_has_none(network):
    model = _tiny(network, sobel=True, norm_statistics="global")
    norms = [x for x in model.layers if isinstance(x, models.norms.BatchNorm)]
    assert {layer.statistics for layer in norms} == {"global"}
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.9, 1e-5)}
    assert not any("sobel" in v.path for v in model.variables)
    images = tf.constant(_images(model, count=8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(images, training=True)))
    values = [v.value for v in model.trainable_variables]
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, values)
    ):
        assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.path


@pytest.mark.parametrize(
    "network, kwargs, message",
    [
        ("alexnet", {"input_shape": (None, None, 3)}, r"\(None, None, 3\) .* alexnet"),
        ("vgg16", {"input_shape": (32, 32)}, r"\(32, 32\) .* vgg16, whose dense"),
        (
            "vgg16",
            {"input_shape": (32, 31, 3)},
            "32 x 31 .* give 32 pixels or more a s",
        ),
        (
            "alexnet",
            {"input_shape": (32, 32, 3)},
            '32 x 32 .* give 63 pixels or more a side, or stem="cifar"',
        ),
        (
            "alexnet_cifar",
            {"input_shape": (14, 32, 3)},
            "give 15 pixels or more a side.",
        ),
        ("alexnet", {"width": 0.01}, "width must be at least 1 / 96, got 0.01"),
        ("alexnet", {"stem": "tiny"}, "stem must be one of .* got 'tiny'"),
        ("vgg16", {"depth": 19}, "depth must be one of .* got 19"),
        (
            "vgg16",
            {"norm_statistics": "layer"},
            "norm_statistics must be one of .* got 'layer'",
        ),
        ("vgg16", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(network, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _NETWORKS[network][0](**kwargs)


@pytest.mark.parametrize(
    "network, side", [("alexnet", 63), ("alexnet_cifar", 15), ("vgg16", 32)]
)
def test_the_smallest_size_works(network, side):
    with keras.StatelessScope(initialize_variables=False):
        model = _NETWORKS[network][0](input_shape=(side, side, 1))
    assert model.get_layer("flatten").input.shape[1:3] == (1, 1)
    assert isinstance(model, feedforward.FeedForward)


def test_a_config_of_before_norm_statistics_is_read():
    config = _tiny("alexnet_cifar").get_config() | {"norm": "batch_global"}
    del config["norm_statistics"]
    again = models.AlexNet.from_config(config)
    assert again.norm_statistics == "global"

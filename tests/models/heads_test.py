import math

import keras
import numpy as np
import pytest

from tfssl.models import heads


def _num_parameters(head):
    return sum(int(np.prod(v.shape)) for v in head.trainable_variables)


def test_parameter_counts_of_the_papers():
    # SimCLR on a ResNet-50: 2048 * 2048 + 2 * 2048, 2048 * 128 + 128 (gamma).
    v1 = heads.mlp(2048, (2048, 128), last_norm="batch_no_offset")
    assert _num_parameters(v1) == 4_460_672
    v2 = heads.mlp(2048, (2048, 2048, 128), last_norm="batch_no_offset")
    assert _num_parameters(v2) == 8_659_072
    # BYOL: a bias before the hidden norm, none behind.
    byol = {"hidden_bias": True, "last_bias": False}
    assert _num_parameters(heads.mlp(2048, (4096, 256), **byol)) == 9_449_472
    assert _num_parameters(heads.mlp(256, (4096, 256), **byol)) == 2_109_440


@pytest.mark.parametrize(
    "last_norm, last_variables",
    [
        ("none", ["last_dense/kernel", "last_dense/bias"]),
        ("batch", ["last_dense/kernel", "last_norm/gamma", "last_norm/beta"]),
        ("batch_no_offset", ["last_dense/kernel", "last_norm/gamma"]),
        ("batch_no_affine", ["last_dense/kernel"]),
    ],
)
@pytest.mark.parametrize("hidden_norm", [True, False])
def test_layers_match_numpy(hidden_norm, last_norm, last_variables):
    head = heads.mlp(6, (5, 4), hidden_norm=hidden_norm, last_norm=last_norm)
    hidden = ["hidden_0_dense/kernel"]
    hidden += (
        ["hidden_0_norm/gamma", "hidden_0_norm/beta"]
        if hidden_norm
        else ["hidden_0_dense/bias"]
    )
    names = ["/".join(v.path.split("/")[1:]) for v in head.trainable_variables]
    assert names == hidden + last_variables
    random = np.random.default_rng(0)
    for variable in head.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    values = {n: v.numpy() for n, v in zip(names, head.trainable_variables)}
    x = random.normal(size=(7, 6)).astype(np.float32)

    def layer(x, part):
        x = x.astype(np.float64) @ values[f"{part}_dense/kernel"]
        x = x + values.get(f"{part}_dense/bias", 0)
        if hidden_norm if part == "hidden_0" else last_norm != "none":
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            x = x * values.get(f"{part}_norm/gamma", 1)
            x = x + values.get(f"{part}_norm/beta", 0)
        return x

    expected = layer(np.maximum(layer(x, "hidden_0"), 0), "last")
    np.testing.assert_allclose(head(x, training=True), expected, rtol=1e-4, atol=1e-4)


def test_kernels_start_small_and_unlike():
    head = heads.mlp(64, (64, 64, 64))
    kernels = [v.numpy() for v in head.variables if v.path.endswith("kernel")]
    for kernel in kernels:
        assert kernel.std() == pytest.approx(0.01, rel=0.1)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    named = heads.mlp(64, (64, 64), kernel_initializer="glorot_uniform")
    kernels = [v.numpy() for v in named.variables if v.path.endswith("kernel")]
    # Glorot: uniform within sqrt(6 / 128), standard deviation sqrt(2 / 128).
    assert kernels[0].std() == pytest.approx(0.125, rel=0.1)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_one_layer_statistics_dtype_and_round_trip(tmp_path):
    assert len(heads.mlp(6, (4,)).layers) == 1
    head = heads.mlp(
        6, (5, 4), last_norm="batch", norm_statistics="global", dtype="mixed_bfloat16"
    )
    statistics = [x.statistics for x in head.layers if hasattr(x, "statistics")]
    assert statistics == ["global", "global"]
    assert head(np.ones((2, 6))).dtype == "bfloat16"
    head.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras")
    x = np.ones((2, 6), np.float32)
    np.testing.assert_array_equal(
        keras.ops.cast(again(x), "float32"), keras.ops.cast(head(x), "float32")
    )


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"dims": ()}, "dims is empty"),
        ({"dims": (5, 0)}, r"positive integers, got input_dim=6, dims=\(5, 0\)"),
        ({"input_dim": None}, "got input_dim=None"),
        ({"last_norm": "layer"}, "last_norm must be one of .* got 'layer'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        heads.mlp(**{"input_dim": 6, "dims": (5, 4), **kwargs})


def _names(head):
    return [[layer.name for layer in some] for some in heads.layers_of(head)]


def test_layers_are_counted_as_in_the_papers():
    hidden = [f"hidden_0_{part}" for part in ("dense", "norm", "relu")]
    simclr = heads.mlp(6, (5, 4), last_norm="batch_no_offset")
    assert _names(simclr) == [hidden, ["last_dense", "last_norm"]]
    v2 = heads.mlp(6, (5, 5, 4), last_norm="batch_no_offset")
    assert list(map(len, _names(v2))) == [3, 3, 2]
    moco = heads.mlp(6, (5, 4), hidden_norm=False)
    assert _names(moco) == [["hidden_0_dense", "hidden_0_relu"], ["last_dense"]]
    assert _names(heads.mlp(6, (4,))) == [["last_dense"]]


def test_layers_of_heads_from_elsewhere():
    def sequential(*kinds):
        layers = [
            keras.layers.ReLU() if k == "r" else keras.layers.Dense(k) for k in kinds
        ]
        return keras.Sequential([keras.Input((6,)), *layers])

    assert list(map(len, heads.layers_of(sequential("r", 5, "r", 4, 3)))) == [3, 1, 1]
    assert list(map(len, heads.layers_of(sequential("r", "r")))) == [2]
    features = keras.Input((6,))
    graph = keras.Model(features, keras.layers.Dense(3)(features))
    assert heads.layers_of(graph) == [[graph]]
    part = heads.first_layers(graph, 1)
    x = np.ones((2, 6), np.float32)
    np.testing.assert_array_equal(part(x), graph(x))


def test_gelu_takes_the_place_of_relu():
    head = heads.mlp(6, (5, 4), hidden_norm=False, activation="gelu")
    assert [layer.name for layer in head.layers] == [
        "hidden_0_dense", "hidden_0_gelu", "last_dense",
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")
    (k0, b0), (k1, b1) = ([v.numpy() for v in head.layers[i].variables] for i in (0, 2))
    y = (x @ k0 + b0).astype(np.float64)
    gelu = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    np.testing.assert_allclose(head(x), gelu @ k1 + b1, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="activation must be 'relu' or 'gelu'"):
        heads.mlp(6, (5,), activation="silu")


@pytest.mark.parametrize("scaled", [False, True])
def test_cosines_are_those_of_numpy_at_any_length(scaled):
    layer = heads.Cosines(9, scaled=scaled)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    layer.build(x.shape)
    start = layer.directions.numpy()
    # As PyTorch's linear layer of 5 inputs.
    assert 0.3 < np.abs(start).max() <= 5**-0.5
    expected = (x @ start.T).astype(np.float64)
    expected /= np.linalg.norm(x, axis=1, keepdims=True)
    expected /= np.linalg.norm(start, axis=1)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-6)
    layer.directions.assign(7 * start)
    np.testing.assert_allclose(layer(3 * x), expected, rtol=1e-4, atol=1e-6)
    assert len(layer.trainable_variables) == (2 if scaled else 1)
    if scaled:
        layer.scales.assign(np.arange(9))
        np.testing.assert_allclose(layer(x), expected * np.arange(9), 1e-4, 1e-5)


def test_cosines_stay_float32_and_are_made_of_their_config():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = heads.Cosines(3)
        assert layer(np.ones((2, 4), np.float32)).dtype == "float32"
        again = heads.Cosines.from_config(layer.get_config())
    finally:
        keras.config.set_dtype_policy("float32")
    assert (again.units, again.scaled, again.dtype_policy.name) == (3, False, "float32")
    np.testing.assert_array_equal(layer(np.zeros((1, 4))), np.zeros((1, 3)))

"""A transformer's block beside NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import positions, transformer


def _block(relative=None, **changes):
    made = dict(mlp_ratio=2.0, layer_scale=0.3, drop_path=0.0, relative=relative)
    normal = keras.initializers.RandomNormal
    inits = {name: lambda: normal(stddev=0.3) for name in ("one", "three", "last")}
    block = transformer.Block(2, inits=inits, **made | changes)
    block.build((None, None, 8))
    random = np.random.default_rng(1)
    for variable in block.trainable_variables:
        variable.assign(variable + 0.2 * random.normal(size=variable.shape))
    return block


def _tokens(count=10, batch=2):
    return np.random.default_rng(0).normal(size=(batch, count, 8)).astype("float32")


def _norm(x, layer):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * layer.gamma + layer.beta


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attention_weights(x, attention):
    """float64 `(batch, heads, tokens, tokens)`, pair by pair."""
    dim = x.shape[-1]
    three = x @ np.array(attention.qkv.kernel) + np.array(attention.qkv.bias)
    query, key = three[..., :dim], three[..., dim : 2 * dim]
    width = dim // attention.heads
    count = x.shape[1]
    bias = np.zeros((1, attention.heads, count, count))
    if attention.relative is not None:
        bias = np.array(attention.relative.bias(count))
    made = np.zeros((len(x), attention.heads, count, count))
    for b in range(len(x)):
        for h in range(attention.heads):
            of_head = slice(h * width, (h + 1) * width)
            for i in range(count):
                scores = [
                    query[b, i, of_head] @ key[b, j, of_head] / math.sqrt(width)
                    for j in range(count)
                ]
                made[b, h, i] = _softmax(np.array(scores) + bias[0, h, i])
    return made


def numpy_attention(x, attention):
    dim = x.shape[-1]
    weights = attention_weights(x, attention)
    three = x @ np.array(attention.qkv.kernel) + np.array(attention.qkv.bias)
    value = three[..., 2 * dim :].reshape(*x.shape[:2], attention.heads, -1)
    mixed = np.einsum("bhij,bjhd->bihd", weights, value).reshape(x.shape)
    layer = attention.projection
    return mixed @ np.array(layer.kernel) + np.array(layer.bias)


def numpy_block(x, block):
    """The block in float64, for one without chance."""
    scales = [np.array(s) for s in block.scales] or [1.0, 1.0]
    x = x.astype(np.float64)
    x = x + scales[0] * numpy_attention(_norm(x, block.norms[0]), block.attention)
    y = _norm(x, block.norms[1]) @ np.array(block.hidden.kernel)
    y = y + np.array(block.hidden.bias)
    y = 0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    y = y @ np.array(block.output_layer.kernel) + np.array(block.output_layer.bias)
    return x + scales[1] * y


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_block_is_its_numpy_form(relative, layer_scale):
    bias = positions.RelativeBias((3, 3), 2) if relative else None
    block = _block(bias, layer_scale=layer_scale)
    x = _tokens()
    np.testing.assert_allclose(block(x), numpy_block(x, block), atol=1e-5)
    np.testing.assert_allclose(
        block.attention.probabilities(x),
        attention_weights(x, block.attention),
        atol=1e-5,
    )


def test_a_branch_is_dropped_for_a_whole_image_and_scaled_elsewhere():
    block = _block(drop_path=0.5, layer_scale=None)
    x = _tokens(batch=64)
    normed = block.norms[0](x)
    branch = np.array(block._branch(block.attention(normed), 0, training=True))
    expected = 2 * np.array(block.attention(normed))
    dropped = np.abs(branch).max(axis=(1, 2)) == 0
    assert 15 < dropped.sum() < 49
    np.testing.assert_allclose(branch[~dropped], expected[~dropped], rtol=1e-5)
    still = np.array(block(x, training=False))
    np.testing.assert_allclose(still, numpy_block(x, block), atol=1e-5)


def test_tokens_become_the_map_that_they_came_from():
    maps = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype("float32")
    tokens = tf.concat([tf.zeros((2, 1, 4)), tf.reshape(maps, (2, 6, 4))], axis=1)
    np.testing.assert_array_equal(transformer.AsMap()([tokens, maps]), maps)


@pytest.mark.parametrize(
    "dtype, error", [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 2**-8)]
)
def test_gelu_and_its_gradient(dtype, error):
    x = tf.cast(np.linspace(-9, 9, 181), dtype)
    upstream = tf.cast(np.linspace(1, 2, 181), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = transformer.gelu(x)
    found = tape.gradient(y, x, output_gradients=upstream)
    assert y.dtype == x.dtype and found.dtype == x.dtype
    exact = np.array(tf.cast(x, "float64"))
    share = np.array([0.5 * math.erfc(-a / math.sqrt(2)) for a in exact])
    density = np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
    y, found, upstream = (np.array(tf.cast(t, "float64")) for t in (y, found, upstream))
    np.testing.assert_allclose(y, exact * share, rtol=error, atol=error)
    expected = upstream * (share + exact * density)
    np.testing.assert_allclose(found, expected, rtol=2 * error, atol=error)

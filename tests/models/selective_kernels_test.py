import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import selective_kernels


def _random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_pooled_is_the_mean_of_the_sum():
    streams = _random((2, 3, 5, 8))
    pooled = selective_kernels.PoolStreams()(streams)
    assert pooled.shape == (2, 1, 1, 4)
    expected = (streams[..., :4] + streams[..., 4:]).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_mixed_by_a_softmax_over_the_two():
    streams, scores = _random((2, 3, 5, 8)), 3 * _random((2, 1, 1, 8), seed=1)
    mixed = selective_kernels.MixStreams()([streams, scores])
    pairs = np.stack([scores[..., :4], scores[..., 4:]])
    weights = np.exp(pairs) / np.exp(pairs).sum(axis=0)
    expected = weights[0] * streams[..., :4] + weights[1] * streams[..., 4:]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equal_scores_give_the_mean_and_large_ones_a_stream(dtype):
    streams = tf.constant([1.0, 2.0, 3.0, 4.0], dtype, (1, 1, 1, 4))
    mix = selective_kernels.MixStreams(dtype=dtype)
    for scores, expected in (
        ([7.0, 7.0, 7.0, 7.0], [2.0, 3.0]),
        ([3e4, 0.0, 0.0, 3e4], [1.0, 4.0]),
        ([0.0, -3e4, 3e4, 3e4], [3.0, 4.0]),
        ([3e4, 3e4, -3e4, -3e4], [1.0, 2.0]),
    ):
        given = tf.constant(scores, dtype, (1, 1, 1, 4))
        with tf.GradientTape() as tape:
            tape.watch(given)
            mixed = mix([streams, given])
        assert mixed.dtype == dtype
        np.testing.assert_array_equal(tf.reshape(mixed, [-1]), expected)
        gradient = tape.gradient(mixed, given)
        assert bool(tf.reduce_all(tf.math.is_finite(tf.cast(gradient, "float32"))))


def test_shapes_are_known_before_the_sizes():
    streams, scores = keras.Input((None, None, 8)), keras.Input((1, 1, 8))
    assert selective_kernels.PoolStreams()(streams).shape == (None, 1, 1, 4)
    mixed = selective_kernels.MixStreams()([streams, scores])
    assert mixed.shape == (None, None, None, 4)

import numpy as np
import tensorflow as tf

from tfssl.models import moments


def _images(shape=(8, 3, 2, 5), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


def test_keras_form_equals_the_kernel():
    x, weights = tf.constant(_images()), tf.constant(_images(seed=2))
    gamma, beta = tf.constant(_images((5,), 3)), tf.constant(_images((5,), 4))

    def run(form, *args):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, mean, variance = form(x, gamma, beta, 1e-5, *args)
            loss = tf.reduce_sum(y * weights)
        return y, mean, variance, *tape.gradient(loss, [x, gamma, beta])

    fused = run(moments.fused_training)
    for ours, theirs in zip(run(moments.ops_training, 1), fused):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    given = (tf.constant(_images((5,), 5)), tf.constant(_images((5,), 6) ** 2))
    np.testing.assert_allclose(
        moments.ops_inference(x, gamma, beta, *given, 1e-5),
        moments.fused_inference(x, gamma, beta, *given, 1e-5),
        atol=1e-5,
    )


def test_the_two_halves_of_a_norm_equal_its_keras_form():
    """Values and gradients in float64, the moments' own gradient included."""
    x = tf.constant(_images().astype(np.float64))
    weights = _images(seed=2).astype(np.float64)
    gamma, beta = (tf.constant(_images((5,), s).astype(np.float64)) for s in (3, 4))

    def halves(x, gamma, beta, epsilon):
        both = moments.of_replica(x, x.dtype)
        return moments.normalized(x, both, gamma, beta, epsilon), *tf.unstack(both)

    def run(form, *args):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, mean, variance = form(x, gamma, beta, 1e-5, *args)
            # The moving moments ask for moments as well, and others may.
            loss = tf.reduce_sum(y * weights) + tf.reduce_sum(mean * variance)
        return y, mean, variance, *tape.gradient(loss, [x, gamma, beta])

    for ours, expected in zip(run(halves), run(moments.ops_training, 1)):
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)


def test_moments_of_replicas_are_those_of_their_union():
    x = tf.constant(_images((6, 4, 5)))
    parts = [moments.of_replica(part, tf.float32) for part in tf.split(x, 3)]
    found = moments.union_of_neighbours(tf.stack(parts), tf.constant(1), 3)
    np.testing.assert_allclose(found, moments.of_replica(x, tf.float32), rtol=1e-5)
    # Of each its own, and of the second of two groups.
    np.testing.assert_array_equal(
        moments.union_of_neighbours(tf.stack(parts), tf.constant(2), 1), parts[2]
    )
    four = tf.stack([*parts, parts[0]])
    np.testing.assert_array_equal(
        moments.union_of_neighbours(four, tf.constant(3), 2),
        moments.union_of_neighbours(four[2:], tf.constant(0), 2),
    )

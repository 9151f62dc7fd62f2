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

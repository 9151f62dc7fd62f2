import numpy as np
import pytest
import tensorflow as tf

from tfssl.losses import unit_norm


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_get_length_one_in_float32(shape, dtype):
    rows = tf.cast(np.random.default_rng(0).normal(size=shape) * 50, dtype)
    found = unit_norm.unit_rows(rows)
    wide = tf.cast(rows, tf.float64).numpy()
    assert found.dtype == tf.float32
    expected = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_zero_row_stays_zero_with_zero_gradient():
    rows = tf.constant([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        unit = unit_norm.unit_rows(rows)
        loss = tf.reduce_sum(unit * [[1.0, 2.0], [1.0, 0.0]])
    np.testing.assert_allclose(unit, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    # d(x / |x|) = (1 - x^2 / |x|^2) / |x| = (1 - 0.36) / 5; -0.6 * 0.8 / 5.
    np.testing.assert_allclose(
        tape.gradient(loss, rows), [[0, 0], [0.128, -0.096]], atol=1e-6
    )

import numpy as np
import pytest
import tensorflow as tf

from tfssl.losses import regression


def _slow(prediction, target):
    losses = []
    for p, t in zip(prediction.astype(np.float64), target.astype(np.float64)):
        difference = p / np.linalg.norm(p) - t / np.linalg.norm(t)
        losses.append(float(difference @ difference))
    return losses


def test_loss_is_the_squared_distance_of_unit_vectors():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 6, 5)).astype("float32")
    found = regression.normalized_regression(prediction, 7 * target)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, _slow(prediction, target), rtol=1e-5)


def test_range_and_dtype():
    p = np.array([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]], "float16")
    t = np.array([[1.0, 0.0], [0.0, 3.0], [-4.0, 0.0]], "float16")
    found = regression.normalized_regression(p, t)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, [0, 2, 4], atol=1e-6)


def test_gradient_equals_finite_differences():
    rng = np.random.default_rng(1)
    prediction, target = rng.normal(size=(2, 3, 4))
    x = tf.constant(prediction, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(regression.normalized_regression(x, target))
    found = tape.gradient(loss, x).numpy()
    for i in np.ndindex(prediction.shape):
        up, down = prediction.copy(), prediction.copy()
        up[i] += 1e-6
        down[i] -= 1e-6
        slope = (sum(_slow(up, target)) - sum(_slow(down, target))) / 2e-6
        assert found[i] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((4,), (4,))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"one shape \(batch, dim\), got"):
        regression.normalized_regression(*map(tf.zeros, shapes))

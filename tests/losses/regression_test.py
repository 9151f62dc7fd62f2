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


def _slow_features(prediction, target, share):
    """Of one image: the mean over its positions, each by itself."""
    found = []
    for p, t in zip(prediction, target):
        cosine = p @ t / (np.linalg.norm(p) * np.linalg.norm(t))
        smooth = [0.5 * x * x if abs(x) < 1 else abs(x) - 0.5 for x in p - t]
        found.append((1 - share) * (1 - cosine) + share * sum(smooth) / len(smooth))
    return sum(found) / len(found)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("places", [(), (3, 2)])
def test_features_and_maps_are_compared_position_by_position(share, places):
    rng = np.random.default_rng(0)
    shape = (4, *places, 5)
    prediction, target = rng.normal(size=(2, *shape))
    target *= 2  # Differences on both sides of 1.
    found = regression.feature_regression(
        prediction.astype("float32"), target.astype("float32"), smooth_l1=share
    )
    assert found.shape == (4,) and found.dtype == tf.float32
    expected = [
        _slow_features(p.reshape(-1, 5), t.reshape(-1, 5), share)
        for p, t in zip(prediction, target)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_the_smooth_l1_sees_the_length_of_features():
    p, t = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")
    alone = regression.feature_regression(p, t)
    np.testing.assert_allclose(regression.feature_regression(p, 9 * t), alone, 1e-5)
    both = regression.feature_regression(p, 9 * t, smooth_l1=0.1)
    assert (both > 0.9 * alone + 0.05).numpy().all()
    # Half precision is computed as single, and overflows nowhere.
    half = regression.feature_regression(np.float16(300 * p), np.float16(300 * t))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, alone, atol=2e-3)


def test_gradients_reach_the_prediction_alone_and_are_finite_at_zero():
    zero, one = tf.zeros([2, 3]), tf.ones([2, 3])
    with tf.GradientTape() as tape:
        tape.watch([zero, one])
        loss = regression.feature_regression(zero, one, smooth_l1=0.5)
    gradients = tape.gradient(loss, [zero, one])
    assert gradients[1] is None
    # The cosine of nothing is 0; the smooth L1 has slope -1 there, a mean of 3.
    np.testing.assert_allclose(loss, [0.5 + 0.25] * 2)
    np.testing.assert_allclose(gradients[0], np.full((2, 3), -0.5 / 3), rtol=1e-6)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 5)), ((3, 2, 4), (3, 4)), ((4,), (4,))]
)
def test_features_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"one shape \(batch, \.\.\., dim\), got"):
        regression.feature_regression(*map(tf.zeros, shapes))
    with pytest.raises(ValueError, match=r"smooth_l1=1.5 received, expected a number"):
        regression.feature_regression(tf.ones([1, 2]), tf.ones([1, 2]), smooth_l1=1.5)


@pytest.mark.parametrize("power", [1, 2])
def test_pixels_are_compared_one_by_one(power):
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 5, 2))
    expected = []
    for p, t in zip(prediction, target):
        each = [abs(x - y) for x, y in zip(p.ravel(), t.ravel())]
        expected.append(np.mean(each if power == 1 else [0.5 * x * x for x in each]))
    found = regression.pixel_regression(prediction, target, power=power)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    x, y = (tf.constant(v, tf.float32) for v in (prediction, target))
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        loss = tf.reduce_sum(regression.pixel_regression(x, y, power=power))
    to_prediction, to_target = tape.gradient(loss, [x, y])
    slope = prediction - target if power == 2 else np.sign(prediction - target)
    expected = slope / 40
    np.testing.assert_allclose(to_prediction, expected, atol=1e-6)
    assert to_target is None


def test_pixels_that_do_not_fit():
    a, b = tf.zeros((2, 4, 4, 1)), tf.zeros((2, 4, 4, 2))
    with pytest.raises(ValueError, match="one shape .batch, height, width, channels.,"):
        regression.pixel_regression(a, b)
    with pytest.raises(ValueError, match="power=3 received, expected 1 or 2"):
        regression.pixel_regression(a, a, power=3)

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def given():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5, 6)).astype("float32")
    labels = rng.integers(6, size=(3, 4, 5)).astype("int32")
    labels[rng.uniform(size=labels.shape) < 0.3] = 255
    labels[1] = 255
    return logits, labels


def slow(logits, labels):
    found = []
    for rows, true in zip(np.float64(logits), labels):
        each = []
        for place in zip(*np.nonzero(true != 255)):
            row = rows[place]
            each.append(-np.log(np.exp(row[true[place]]) / np.exp(row).sum()))
        found.append(np.mean(each) if each else 0.0)
    return np.array(found)


def test_it_is_the_mean_over_the_pixels_that_count():
    logits, labels = given()
    found = losses.pixel_cross_entropy(logits, labels)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, slow(logits, labels), rtol=1e-5)
    other = losses.pixel_cross_entropy(
        logits, np.where(labels == 255, 7, labels), ignored=7
    )
    np.testing.assert_array_equal(other, found)


def test_ignored_pixels_get_no_gradient():
    logits, labels = given()
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.pixel_cross_entropy(logits, labels)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[labels == 255].any()
    assert np.abs(gradient[labels != 255]).sum(axis=-1).min() > 0


def test_half_precision_is_computed_in_float32():
    logits, labels = given()
    half = tf.cast(logits, tf.bfloat16)
    rounded = tf.cast(half, tf.float32).numpy()
    found = losses.pixel_cross_entropy(half, labels)
    np.testing.assert_allclose(found, slow(rounded, labels), rtol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    logits, labels = given()
    with pytest.raises(ValueError, match="logits and labels must be"):
        losses.pixel_cross_entropy(logits, labels[:, :2])

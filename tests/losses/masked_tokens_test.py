import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def given(batch=3, places=(4, 2), vocabulary=7):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(batch, *places, vocabulary)).astype("float32")
    tokens = rng.integers(vocabulary, size=(batch, *places)).astype("int32")
    mask = rng.uniform(size=(batch, *places)) < 0.5
    mask[1] = False
    return logits, tokens, mask


def slow(logits, tokens, mask):
    found = []
    for rows, true, hidden in zip(np.float64(logits), tokens, mask):
        each = []
        for place in zip(*np.nonzero(hidden)):
            row = rows[place]
            each.append(-np.log(np.exp(row[true[place]]) / np.exp(row).sum()))
        found.append(np.sum(each))
    return np.array(found)


@pytest.mark.parametrize("places", [(8,), (4, 2)])
def test_it_is_the_sum_over_hidden_patches(places):
    logits, tokens, mask = given(places=places)
    found = losses.masked_token_cross_entropy(logits, tokens, mask)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, slow(logits, tokens, mask), rtol=1e-5)


def test_what_is_seen_does_not_count():
    logits, tokens, mask = given()
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.masked_token_cross_entropy(logits, tokens, mask)
    gradient = tape.gradient(loss, logits).numpy()
    assert not gradient[~mask].any()
    assert np.abs(gradient[mask]).sum(axis=-1).min() > 0


def test_half_precision_is_computed_in_float32():
    logits, tokens, mask = given()
    found = losses.masked_token_cross_entropy(
        tf.cast(logits, tf.bfloat16), tokens, mask
    )
    assert found.dtype == tf.float32
    rounded = tf.cast(tf.cast(logits, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_allclose(found, slow(rounded, tokens, mask), rtol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    logits, tokens, mask = given()
    with pytest.raises(ValueError, match="logits, tokens and mask must be"):
        losses.masked_token_cross_entropy(logits, tokens[:, :2], mask)

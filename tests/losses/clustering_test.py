import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl.losses import clustering


def plain_sinkhorn(scores, epsilon, iterations):
    """The paper's code in float64: K x B, exponentials first, with its constants."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    prototypes, images = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True)
        q /= prototypes
        q /= q.sum(axis=0, keepdims=True)
        q /= images
    return (q * images).T


def cosines(rows=12, prototypes=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, size=(rows, prototypes)).astype("float32")


@pytest.mark.parametrize("epsilon, iterations", [(0.05, 3), (0.5, 1), (0.03, 10)])
def test_sinkhorn_is_the_papers(epsilon, iterations):
    scores = cosines()
    found = clustering.sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    expected = plain_sinkhorn(scores, epsilon, iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, rtol=1e-5)


def test_all_prototypes_get_the_same_in_the_limit():
    found = clustering.sinkhorn(cosines(rows=30), epsilon=0.2, iterations=300)
    np.testing.assert_allclose(tf.reduce_sum(found, axis=0), 30 / 5, rtol=1e-4)
    # Also if all images are nearest to the same one.
    tied = np.tile([[0.9, 0.1, 0.0]], (6, 1))
    found = clustering.sinkhorn(tied, epsilon=0.05, iterations=3)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_sinkhorn_on_replicas_equals_one_on_the_joined_batch(mirrored, count):
    scores = cosines(rows=16)
    mask = np.arange(16) % 3 > 0  # Uneven among the replicas.
    strategy = mirrored(count)

    def on_replica(mask_of):
        i = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = tf.reshape(scores, [count, 16 // count, 5])[i]
        kept = tf.reshape(mask, [count, 16 // count])[i]
        return clustering.sinkhorn(rows, mask=kept if mask_of else None)

    for mask_of in (None, mask):
        found = tf.function(strategy.run)(on_replica, args=(mask_of is not None,))
        found = np.concatenate(strategy.experimental_local_results(found))
        alone = clustering.sinkhorn(scores, mask=mask_of)
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-7)


def test_rows_out_of_the_mask_claim_nothing():
    scores = cosines(rows=10)
    mask = np.array([True] * 6 + [False] * 4)
    found = clustering.sinkhorn(scores, mask=mask)
    np.testing.assert_allclose(found[:6], clustering.sinkhorn(scores[:6]), rtol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, rtol=1e-5)


def test_scores_of_any_size_stay_finite():
    scores = 1e4 * cosines()
    scores[:, 0] = -1e4  # A prototype that no image wants: exp gives 0 everywhere.
    found = clustering.sinkhorn(scores)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, rtol=1e-5)


def test_swapped_prediction_is_the_cross_entropy():
    scores, other = cosines(4, 3), cosines(4, 3, seed=1)
    codes = clustering.sinkhorn(other).numpy()
    found = clustering.swapped_prediction(scores, codes, temperature=0.1)
    for i in range(4):
        logits = scores[i].astype(np.float64) / 0.1
        log_p = logits - math.log(sum(math.exp(x) for x in logits))
        assert float(found[i]) == pytest.approx(-sum(codes[i] * log_p), rel=1e-5)
    same = clustering.swapped_prediction(np.zeros((2, 7)), np.full((2, 7), 1 / 7))
    np.testing.assert_allclose(same, math.log(7), rtol=1e-6)


def test_gradient_is_prediction_minus_assignment_and_none_for_the_assignment():
    scores, codes = tf.constant(cosines(4, 3)), tf.constant(cosines(4, 3, seed=1))
    with tf.GradientTape() as tape:
        tape.watch([scores, codes])
        assigned = clustering.sinkhorn(codes)
        losses = clustering.swapped_prediction(scores, assigned, temperature=0.5)
    of_scores, of_codes = tape.gradient(losses, [scores, codes])
    p = tf.nn.softmax(scores / 0.5, axis=1)
    np.testing.assert_allclose(of_scores, (p - assigned) / 0.5, atol=1e-5)
    assert of_codes is None


def test_cluster_cross_entropy_leaves_out_unknown_clusters():
    logits = tf.constant(cosines(3, 4))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = clustering.cluster_cross_entropy(logits, [2, -1, 0], temperature=0.2)
    expected = [
        math.log(np.exp(logits[i].numpy() / 0.2).sum()) - float(logits[i, c]) / 0.2
        for i, c in ((0, 2), (2, 0))
    ]
    np.testing.assert_allclose(losses.numpy()[[0, 2]], expected, rtol=1e-5)
    assert losses[1] == 0
    gradient = tape.gradient(losses, logits).numpy()
    assert not gradient[1].any() and gradient[[0, 2]].any(axis=1).all()


def test_half_precision_is_computed_in_float32():
    scores = tf.cast(cosines(), tf.float16)
    assert clustering.sinkhorn(scores).dtype == tf.float32
    losses = clustering.swapped_prediction(scores, tf.cast(scores, tf.float16))
    assert losses.dtype == tf.float32 and np.isfinite(losses).all()
    assert clustering.cluster_cross_entropy(scores, [0] * 12).dtype == tf.float32


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: clustering.sinkhorn(cosines(), epsilon=0), "epsilon=0 received, exp"),
        (lambda: clustering.sinkhorn(cosines(), iterations=0), "iterations=0 received"),
        (
            lambda: clustering.sinkhorn(np.zeros(3)),
            r"\(batch, prototypes\), got \(3,\)",
        ),
        (
            lambda: clustering.swapped_prediction(cosines(), cosines(rows=3)),
            r"one shape \(batch, prototypes\), got \(12, 5\) and \(3, 5\)",
        ),
        (
            lambda: clustering.swapped_prediction(cosines(), cosines(), temperature=-1),
            "temperature=-1 received, expected a number above 0",
        ),
        (
            lambda: clustering.cluster_cross_entropy(cosines(), [1, 2]),
            r"assignments \(batch,\), got \(12, 5\) and \(2,\)",
        ),
    ],
)
def test_clear_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

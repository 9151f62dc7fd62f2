"""Losses of the methods that learn from cluster assignments.

Computed in float32 for any input dtype, with one result per image. Only `sinkhorn`
looks beyond the rows it is given: its sums run over all replicas.
"""

import tensorflow as tf

from tfssl import checks, replicas


def sinkhorn(scores, *, epsilon=0.05, iterations=3, mask=None):
    """Soft assignments of images to prototypes that use all prototypes equally.

    Sinkhorn-Knopp on `exp(scores / epsilon)`: in turn every prototype is scaled to
    the same total over the images of all replicas, and every image to the total 1.
    It ends with the images. Written with logarithms, so that no exponential can
    overflow or leave a prototype without mass; the constants of the paper (1/K, 1/B)
    cancel and are left out.

    Args:
        scores: float `(batch, prototypes)`, cosines of this replica's images with
            the prototypes; the same shape on every replica.
        epsilon: float > 0. Smaller gives harder assignments.
        iterations: int >= 1.
        mask: bool `(batch,)`, or None: rows that count. The others get assignments
            as well, but claim no share of a prototype.

    Returns:
        float32 `(batch, prototypes)` without gradient: rows sum to 1; over the rows
        that count, of all replicas, columns sum to about the same (in the limit of
        many iterations, exactly).

    Raises:
        ValueError: if an argument is out of range, or `scores` is not a matrix.

    Reference:
        Caron et al., 2020, https://arxiv.org/abs/2006.09882, section 3.1 and appendix
        A; facebookresearch/swav, `distributed_sinkhorn`. That code takes the
        exponential first, in float32.
    """
    checks.positive({"epsilon": epsilon}, "epsilon")
    checks.whole({"iterations": iterations}, "iterations")
    scores = tf.convert_to_tensor(scores)
    if scores.shape.rank != 2:
        raise ValueError(
            f"scores must have shape (batch, prototypes), got {scores.shape}."
        )
    logs = tf.stop_gradient(tf.cast(scores, tf.float32)) / epsilon
    for _ in range(iterations):
        logs -= _log_totals(logs, mask)
        logs -= tf.reduce_logsumexp(logs, axis=1, keepdims=True)
    return tf.exp(logs)


def _log_totals(logs, mask):
    """Logarithm of each prototype's sum over the images of all replicas, `(1, k)`."""
    if mask is not None:
        logs = tf.where(mask[:, tf.newaxis], logs, -float("inf"))
    mine = tf.reduce_logsumexp(logs, axis=0, keepdims=True)
    everyones, _ = replicas.gather_rows(_finite(mine))
    return tf.reduce_logsumexp(everyones, axis=0, keepdims=True)


def _finite(logs):
    """No row that counts is a sum of 0; -inf would be NaN where it is gathered."""
    return tf.maximum(logs, -1e30)


def swapped_prediction(scores, assignments, *, temperature=0.1):
    """How badly one view's scores predict another view's assignments.

    `-sum_k assignments[k] * log softmax(scores / temperature)[k]` for each image.

    Args:
        scores: float `(batch, prototypes)`, cosines with the prototypes.
        assignments: float `(batch, prototypes)`, rows that sum to 1, as `sinkhorn`
            gives them. No gradient flows into them.
        temperature: float > 0.

    Returns:
        float32 `(batch,)`; `ln(prototypes)` for scores that are all the same.

    Raises:
        ValueError: if the shapes differ or the temperature is not positive.

    Reference:
        Caron et al., 2020, https://arxiv.org/abs/2006.09882, equation 2.
    """
    _check_temperature(temperature)
    scores = tf.convert_to_tensor(scores)
    assignments = tf.convert_to_tensor(assignments)
    if scores.shape.rank != 2 or not scores.shape.is_compatible_with(assignments.shape):
        raise ValueError(
            "scores and assignments must have one shape (batch, prototypes), got "
            f"{scores.shape} and {assignments.shape}."
        )
    log_p = tf.nn.log_softmax(tf.cast(scores, tf.float32) / temperature, axis=1)
    target = tf.stop_gradient(tf.cast(assignments, tf.float32))
    return -tf.reduce_sum(target * log_p, axis=1)


def cluster_cross_entropy(logits, assignments, *, temperature=1.0):
    """Cross-entropy of cluster numbers that leaves out images without one.

    Args:
        logits: float `(batch, clusters)`.
        assignments: int `(batch,)`, cluster of each image, or -1 for unknown.
        temperature: float > 0; logits are divided by it.

    Returns:
        float32 `(batch,)`; 0, with no gradient, where the cluster is unknown.

    Raises:
        ValueError: if the shapes do not fit or the temperature is not positive.
    """
    _check_temperature(temperature)
    logits = tf.convert_to_tensor(logits)
    assignments = tf.convert_to_tensor(assignments)
    if logits.shape.rank != 2 or not logits.shape[:1].is_compatible_with(
        assignments.shape
    ):
        raise ValueError(
            "logits must be (batch, clusters) and assignments (batch,), got "
            f"{logits.shape} and {assignments.shape}."
        )
    known = assignments >= 0
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.where(known, assignments, 0),
        logits=tf.cast(logits, tf.float32) / temperature,
    )
    return tf.where(known, losses, 0.0)


def _check_temperature(temperature):
    checks.positive({"temperature": temperature}, "temperature")

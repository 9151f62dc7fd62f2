"""InfoNCE of predictions, among what was there at other places and in other images."""

import tensorflow as tf

from tfssl import checks
from tfssl.losses import blockwise


def predictive_coding(predictions, targets, positive, *, block_size=None):
    """Cross-entropy of picking what was predicted among all targets.

    The loss of prediction `p` is `-log(exp(p . t+) / sum_l exp(p . t_l))`, by plain
    products of vectors: neither is normalized, and there is no temperature.

    Memory grows with `num * candidates`; with `block_size` it is linear, for the same
    value and gradient.

    Args:
        predictions: float tensor `(num, dim)`.
        targets: `(candidates, dim)`: what was there, and all negatives.
        positive: int32 `(num,)`, the row of `targets` that each prediction is of.
        block_size: None, or int >= 1, targets per block, see `blockwise.cross_entropy`.

    Returns:
        float32 tensor `(num,)`, computed in float32 for any input dtype. All products
        equal gives `log(candidates)`.

    Raises:
        ValueError: for shapes that do not fit, or `block_size < 1`.

    Reference:
        Hénaff et al., 2019, https://arxiv.org/abs/1905.09272, Eq. 1.
    """
    predictions, targets = (
        tf.cast(tf.convert_to_tensor(x), tf.float32) for x in (predictions, targets)
    )
    if predictions.shape.rank != 2 or not targets.shape[1:].is_compatible_with(
        predictions.shape[1:]
    ):
        raise ValueError(
            "predictions and targets must be (num, dim) and (candidates, dim), got "
            f"{predictions.shape} and {targets.shape}."
        )
    if block_size is None:
        logits = tf.matmul(predictions, targets, transpose_b=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(positive, logits)
    checks.whole({"block_size": block_size}, "block_size")
    return blockwise.cross_entropy(
        predictions,
        targets,
        itself=tf.fill(tf.shape(positive), -1),
        positive=positive,
        temperature=1.0,
        block_size=block_size,
    )

"""Cross-entropy of guessing the tokens of hidden patches."""

import tensorflow as tf


def masked_token_cross_entropy(logits, tokens, mask):
    """The cross-entropy of an image's hidden patches, their sum.

    Args:
        logits: float tensor `(batch, ..., vocabulary)`, of every patch.
        tokens: int tensor `(batch, ...)`, what the patches are, from 0.
        mask: bool tensor `(batch, ...)`, True for a patch that counts.

    Returns:
        float32 tensor `(batch,)`, computed in float32 for any input dtype. Uniform
        logits give `log(vocabulary)` for each hidden patch.

    Raises:
        ValueError: for shapes that do not fit.

    Reference:
        Bao et al., 2022, https://arxiv.org/abs/2106.08254, Eq. 2. The authors' code
        has the mean over all hidden patches of a batch.
    """
    logits = tf.cast(tf.convert_to_tensor(logits), tf.float32)
    tokens, mask = tf.convert_to_tensor(tokens), tf.convert_to_tensor(mask)
    places = logits.shape[:-1]
    if not (
        places.is_compatible_with(tokens.shape)
        and places.is_compatible_with(mask.shape)
    ):
        raise ValueError(
            "logits, tokens and mask must be (batch, ..., vocabulary), (batch, ...) "
            f"and (batch, ...), got {logits.shape}, {tokens.shape} and {mask.shape}."
        )
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens, logits)
    return sum_where(each, mask)


def sum_where(values, mask):
    """The sum of an image's values where the mask is True, `(batch,)`."""
    axes = list(range(1, values.shape.rank))
    return tf.reduce_sum(tf.where(mask, values, 0), axis=axes)

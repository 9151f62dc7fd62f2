"""Cross-entropy of saying what every pixel of an image is."""

import tensorflow as tf

from tfssl.losses import masked_tokens


def pixel_cross_entropy(logits, labels, *, ignored=255):
    """The mean cross-entropy of an image's pixels.

    Args:
        logits: float tensor `(batch, height, width, classes)`.
        labels: int tensor `(batch, height, width)`, the classes from 0 on.
        ignored: int, the label of pixels that do not count.

    Returns:
        float32 tensor `(batch,)`, computed in float32 for any input dtype; 0 for an
        image without a pixel that counts. Uniform logits give `log(classes)`.

    Raises:
        ValueError: for shapes that do not fit.

    Reference:
        Long et al., 2015, https://arxiv.org/abs/1411.4038, section 4. Frameworks
        usually have the mean over all pixels of a batch; here every image counts alike,
        so that images may be on any number of replicas.
    """
    logits, labels = tf.convert_to_tensor(logits), tf.convert_to_tensor(labels)
    if not logits.shape[:-1].is_compatible_with(labels.shape):
        raise ValueError(
            "logits and labels must be (batch, height, width, classes) and (batch, "
            f"height, width), got {logits.shape} and {labels.shape}."
        )
    known = labels != ignored
    total = masked_tokens.masked_token_cross_entropy(
        logits, tf.where(known, labels, 0), known
    )
    count = tf.reduce_sum(tf.cast(known, tf.float32), axis=[1, 2])
    return tf.math.divide_no_nan(total, count)

"""Regression losses: an embedding predicts another one, without negatives."""

import tensorflow as tf

from tfssl.losses import unit_norm


def normalized_regression(prediction, target):
    """Squared distance of unit vectors: `2 - 2 * cosine similarity`.

    Args:
        prediction: float tensor `(batch, dim)`. Need not be normalized.
        target: `(batch, dim)`. The caller stops its gradient where the method
            does.

    Returns:
        float32 tensor `(batch,)`, from 0 (same direction) over 2 (orthogonal) to
        4 (opposite), computed in float32 for any input dtype.

    Raises:
        ValueError: if the shapes are not one `(batch, dim)`.

    Reference:
        Grill et al., 2020, https://arxiv.org/abs/2006.07733, Eq. 2: one of the two
        terms that BYOL adds.
    """
    prediction, target = tf.convert_to_tensor(prediction), tf.convert_to_tensor(target)
    if prediction.shape.rank != 2 or not prediction.shape.is_compatible_with(
        target.shape
    ):
        raise ValueError(
            "prediction and target must be of one shape (batch, dim), got "
            f"{prediction.shape} and {target.shape}."
        )
    cosine = tf.reduce_sum(
        unit_norm.unit_rows(prediction) * unit_norm.unit_rows(target), axis=1
    )
    return 2.0 - 2.0 * cosine

"""Regression losses: an embedding predicts another one, without negatives."""

import tensorflow as tf

from tfssl import checks
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


def feature_regression(prediction, target, *, smooth_l1=0.0):
    """Distance of a student's features from a teacher's, position by position.

    `(1 - smooth_l1) * (1 - cos) + smooth_l1 * mean_d h(prediction_d - target_d)`, with
    `h(x) = x ** 2 / 2` up to 1 and `|x| - 1 / 2` beyond; of a feature map the mean over
    its positions. The cosine does not see lengths, so that a teacher of any scale
    teaches alike; the smooth L1 does.

    Args:
        prediction: float `(batch, dim)` or, a feature map, `(batch, rows, columns,
            dim)`. Need not be normalized.
        target: of the same shape. No gradient flows into it.
        smooth_l1: float in [0, 1], the share of the second term. AM-RADIO takes 0 for
            features of the whole image and 0.1 for a feature map.

    Returns:
        float32 `(batch,)`, computed in float32 for any input dtype. The first term is
        from 0 (same direction) to 2. A position without any length has cosine 0.

    Raises:
        ValueError: if the shapes are not one, of at least two dimensions, or
            `smooth_l1` is no share.

    Reference:
        Ranzinger et al., 2024, https://arxiv.org/abs/2312.06709 (AM-RADIO): 1 - cos for
        the summary of an image, 0.9 (1 - cos) + 0.1 smooth L1 for spatial features, of
        several teachers; here there is one.
    """
    checks.share({"smooth_l1": smooth_l1}, "smooth_l1")
    prediction, target = map(tf.convert_to_tensor, (prediction, target))
    rank = prediction.shape.rank
    if not rank or rank < 2 or not prediction.shape.is_compatible_with(target.shape):
        raise ValueError(
            "prediction and target must be of one shape (batch, ..., dim), got "
            f"{prediction.shape} and {target.shape}."
        )
    prediction = tf.cast(prediction, tf.float32)
    target = tf.stop_gradient(tf.cast(target, tf.float32))
    units = unit_norm.unit_rows(prediction) * unit_norm.unit_rows(target)
    terms = (1 - smooth_l1) * (1.0 - tf.reduce_sum(units, axis=-1))
    if smooth_l1:
        size = tf.abs(prediction - target)
        small = tf.minimum(size, 1.0)
        # h(x), in one form: its slope is `small`.
        terms += smooth_l1 * tf.reduce_mean(small * (size - small / 2), axis=-1)
    return tf.reduce_mean(terms, axis=list(range(1, rank - 1)))


def pixel_regression(prediction, target, *, power=1):
    """Mean difference of two images, over their pixels and channels.

    Args:
        prediction: float `(batch, height, width, channels)`.
        target: of the same shape. No gradient flows into it.
        power: 1, the mean of `|prediction - target|`, or 2, half of the mean of its
            square.

    Returns:
        float32 `(batch,)`, computed in float32 for any input dtype.

    Raises:
        ValueError: if the shapes are not one of four dimensions, or for another power.
    """
    prediction, target = map(tf.convert_to_tensor, (prediction, target))
    if prediction.shape.rank != 4 or not prediction.shape.is_compatible_with(
        target.shape
    ):
        raise ValueError(
            "prediction and target must be of one shape (batch, height, width, "
            f"channels), got {prediction.shape} and {target.shape}."
        )
    if power not in (1, 2):
        raise checks.refused("power", power, "1 or 2")
    difference = tf.cast(prediction, tf.float32)
    difference -= tf.stop_gradient(tf.cast(target, tf.float32))
    error = tf.abs(difference) if power == 1 else 0.5 * tf.square(difference)
    return tf.reduce_mean(error, axis=[1, 2, 3])

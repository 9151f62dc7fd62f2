"""Noise contrastive estimation: is this the image's own memory, or noise?"""

import math

import tensorflow as tf

from tfssl import checks
from tfssl.losses import contrastive


def noise_contrastive(
    query, positive, noise, *, temperature=0.07, dataset_size, normalizer=1.0
):
    """NCE: each candidate by itself is told to be the positive or noise.

    With cosine similarity `s`, `D` the data and `D_N` the noise, a candidate is taken
    for the positive with probability
    `h(s) = exp(s / temperature) / Z / (exp(s / temperature) / Z + |D_N| / |D|)`, and
    the loss of a query is `-log h(positive) - sum over noise of log(1 - h(noise))`.
    Both logarithms are computed of the log-odds, so that none overflows.

    Args:
        query: float tensor `(batch, dim)`. Need not be normalized.
        positive: `(batch, dim)`, the match of each query.
        noise: `(num, dim)`, shared by the batch, or `(batch, num, dim)`, each query's
            own; images drawn uniformly from the data.
        temperature: Python float > 0.
        dataset_size: int >= 1, `|D|`, images of the data.
        normalizer: `Z`, a float > 0 or a float32 scalar tensor: what makes the
            exponentials over all images a distribution. The authors estimate it once,
            as `|D|` times the mean exponential of the first batch.

    Returns:
        float32 tensor `(batch,)`, computed in float32 for any input dtype. If every
        candidate has `exp(s / temperature) / Z = 1 / |D|`, it is
        `log(num + 1) + num * log(1 + 1 / num)`.

    Raises:
        ValueError: for a temperature, size or normalizer of 0 or less, or shapes that
            do not fit.

    Reference:
        Misra & van der Maaten, 2020, https://arxiv.org/abs/1912.01991, Eq. 4 and 5,
        with Z = 1; Wu et al., 2018, https://arxiv.org/abs/1805.01978, Eq. 6 to 8, and
        zhirongw/lemniscate.pytorch, with Z and 1e-7 added to both denominators, which
        is not needed here. Their constant log(|D_N| / |D|) is in this value too.
    """
    checks.whole({"dataset_size": dataset_size}, "dataset_size")
    if not tf.is_tensor(normalizer):
        checks.positive({"normalizer": normalizer}, "normalizer")
    logits = contrastive.positive_and_negatives(query, positive, noise, temperature)
    num = tf.cast(tf.shape(logits)[1] - 1, tf.float32)
    odds = logits - tf.math.log(tf.cast(normalizer, tf.float32))
    odds -= tf.math.log(num) - math.log(dataset_size)
    missed = tf.reduce_sum(tf.math.softplus(odds[:, 1:]), axis=1)
    return tf.math.softplus(-odds[:, 0]) + missed

"""The loss of discrete variational autoencoders: visual tokens and their images."""

import tensorflow as tf

from tfssl import checks

# Beyond it a pixel's density is narrower than the steps of 8-bit images, and that of a
# background of one colour would grow without end.
LEAST_LOG_SCALE = -5.0


def logit_laplace(outputs, values):
    """Log density of pixels whose logit has a Laplace distribution.

    `-ln(2 b x (1 - x)) - |logit(x) - mu| / b`, a density on (0, 1).

    Args:
        outputs: float `(batch, height, width, 2 * channels)`: the means `mu` of the
            channels, then as many `ln(b)`. Below -5 they count as -5.
        values: float `(batch, height, width, channels)`, `x` in (0, 1).

    Returns:
        float32 `(batch, height, width, channels)`, in nats.

    Raises:
        ValueError: for shapes that do not fit.

    Reference:
        Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, appendix A.3. Difference:
        there `b` has no least value.
    """
    outputs, values = (tf.cast(x, tf.float32) for x in (outputs, values))
    _check_pixels(outputs, values, 2)
    mean, log_scale = tf.split(outputs, 2, axis=-1)
    log_scale = tf.maximum(log_scale, LEAST_LOG_SCALE)
    logit = tf.math.log(values) - tf.math.log1p(-values)
    density_at = tf.math.log(2 * values * (1 - values)) + log_scale
    return -density_at - tf.abs(logit - mean) * tf.exp(-log_scale)


def squared_error(outputs, values):
    """Minus the squared difference: a Gaussian's log density, but for a constant.

    Args:
        outputs: float `(batch, height, width, channels)`.
        values: of the same shape.

    Returns:
        float32 of this shape: the log density of a variance of 1/2.

    Raises:
        ValueError: for shapes that do not fit.
    """
    outputs, values = (tf.cast(x, tf.float32) for x in (outputs, values))
    _check_pixels(outputs, values, 1)
    return -tf.square(outputs - values)


def kl_to_uniform(logits):
    """How far a choice among codes is from choosing by chance, cell by cell.

    Args:
        logits: float `(…, codes)`.

    Returns:
        float32 `(…,)`, `KL(softmax(logits) || uniform)` in nats, from 0 (all codes
        alike) to `ln(codes)` (one of them).
    """
    logits = tf.cast(logits, tf.float32)
    log_shares = tf.nn.log_softmax(logits)
    most = tf.math.log(tf.cast(tf.shape(logits)[-1], tf.float32))
    return tf.reduce_sum(tf.exp(log_shares) * (log_shares + most), axis=-1)


def dvae_elbo(log_likelihood, logits, *, kl_weight=1.0):
    """What a discrete variational autoencoder is to maximize, for each image.

    `E_q[ln p(x | z)] - kl_weight * KL(q(z | x) || p(z))`, with one choice among the
    codes in every cell of a grid and a uniform prior `p(z)`. At `kl_weight` 1 it is
    a lower bound of `ln p(x)`. The expectation is that of the one sample of `z` which
    the caller's log likelihood is of.

    Args:
        log_likelihood: float `(batch, height, width, channels)`, of the pixels, as
            `logit_laplace` gives it.
        logits: float `(batch, rows, columns, codes)` of `q(z | x)`.
        kl_weight: number >= 0 or scalar tensor, DALL-E's beta.

    Returns:
        float32 `(batch,)`, in nats: a sum over pixels, minus one over cells.

    Raises:
        ValueError: for shapes that do not fit.

    Reference:
        Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, Eq. 1, its first stage.
    """
    log_likelihood, logits = map(tf.convert_to_tensor, (log_likelihood, logits))
    if log_likelihood.shape.rank != 4 or logits.shape.rank != 4:
        raise ValueError(
            "log_likelihood (batch, height, width, channels) and logits (batch, rows, "
            f"columns, codes) expected, got {log_likelihood.shape} and {logits.shape}."
        )
    if checks.is_number(kl_weight):
        checks.not_negative({"kl_weight": kl_weight}, "kl_weight")
    pixels = tf.reduce_sum(tf.cast(log_likelihood, tf.float32), axis=[1, 2, 3])
    return pixels - kl_weight * tf.reduce_sum(kl_to_uniform(logits), axis=[1, 2])


def _check_pixels(outputs, values, each):
    wanted = [*values.shape[:-1], each * values.shape[-1]]
    if values.shape.rank != 4 or not outputs.shape.is_compatible_with(wanted):
        raise ValueError(
            f"outputs of shape {tuple(wanted)} expected for values of shape "
            f"{tuple(values.shape)}, got {tuple(outputs.shape)}."
        )

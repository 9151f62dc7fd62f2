"""Mixing the labelled images of a batch: mixup and cutmix.

References:
    Zhang et al., 2018, "mixup", https://arxiv.org/abs/1710.09412;
    Yun et al., 2019, "CutMix", https://arxiv.org/abs/1905.04899, and the authors' code
    (clovaai/CutMix-PyTorch), whose boxes these are.

Differences: an image is mixed with its neighbour in the batch (2k with 2k + 1), not
with one that a permutation of the batch names, so that a mix never needs an image of
another replica; the stream is shuffled, so neighbours are random pairs as well. Every
pair has a lambda and a box of its own, where the authors' code draws one for the whole
batch: the mean over a batch is then less noisy. Both images of a pair are mixed with
the same lambda and the same box.

The layers `keras.layers.MixUp` and `CutMix` of Keras 3.15 are not used: they draw from
the variable of a `SeedGenerator`, which counts its calls, and permute the rows that a
replica holds, so the result depends on the number of replicas and on what was drawn
before. Their labels are vectors over the classes; and the share that a cutmix gives
there is that of a box with fractional corners, not of the pixels that were pasted (on
images of 9 x 7 pixels 0.81 for 0.76).
"""

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from tfssl import checks, stateless

# Of one gamma variate; each try is taken with a chance of 0.95 or more, so that all of
# them fail once in 10^15.
_TRIES = 12
_PER_TRY = 3


class Drawn(NamedTuple):
    """The numbers of a mix, one of each per pair: float32 `(pairs,)` in [0, 1].

    Attributes:
        kept: share of the own image in every pixel outside the box.
        side: side of the box as a share of the image's; 0 for no box.
        row: centre of the box, from the top.
        column: centre of the box, from the left.
    """

    kept: tf.Tensor
    side: tf.Tensor
    row: tf.Tensor
    column: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Settings of a mix.

    Attributes:
        mixup: alpha of the Beta(alpha, alpha) from which the lambda of a mixup is
            drawn; 0 for no mixup.
        cutmix: the same of cutmix.
        probability: share of the pairs that are mixed.
        switch: share of the mixed pairs that are mixed by cutmix, where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self):
        checks.not_negative(vars(self), "mixup", "cutmix")
        checks.share(vars(self), "probability", "switch")

    @property
    def active(self):
        """Whether any image is ever mixed."""
        return self.probability > 0 and max(self.mixup, self.cutmix) > 0

    def draw(self, seed, positions):
        """The numbers of every pair, a pure function of its place in the stream.

        So they are the same, up to rounding, on any number of replicas and under XLA.

        Args:
            seed: int, of the run.
            positions: int64 `(batch,)`, the batch's `"position"`; `batch` even.

        Returns:
            `Drawn`.
        """
        per_gamma = _TRIES * _PER_TRY + 1
        u = stateless.uniform(seed, positions[::2], 4 + 2 * per_gamma, purpose="mixing")
        coins, a, b = tf.split(u, [4, per_gamma, per_gamma], axis=1)
        mixes, cuts, row, column = tf.unstack(coins, axis=1)
        cuts = cuts < self._share_of_cutmix
        # A kind that is off is never taken; any alpha will do for it.
        alphas = (float(given or 1) for given in (self.cutmix, self.mixup))
        alpha = tf.where(cuts, *alphas)
        # The odds of a Beta are the ratio of two Gammas; logarithms do not underflow.
        kept = tf.sigmoid(_log_gamma(alpha, a) - _log_gamma(alpha, b))
        kept = tf.where(mixes < (self.probability if self.active else 0.0), kept, 1.0)
        return Drawn(
            kept=tf.where(cuts, 1.0, kept),
            side=tf.where(cuts, tf.sqrt(1.0 - kept), 0.0),
            row=row,
            column=column,
        )

    @property
    def _share_of_cutmix(self):
        if self.mixup and self.cutmix:
            return self.switch
        return 1.0 if self.cutmix else 0.0


def apply(images, drawn):
    """Mixes every image with its neighbour; no random operation.

    Args:
        images: `(batch, height, width, channels)`, floating; `batch` even.
        drawn: `Drawn`, of `batch / 2` pairs.

    Returns:
        `(mixed, weight)`: images of the same shape and dtype, and float32 `(batch,)`,
        the exact share of the image itself in what it has become. The loss of a mixed
        image is `weight * loss(own label) + (1 - weight) * loss(partner's label)`; see
        `partners`.

    Raises:
        ValueError: for a batch known to be odd.
    """
    height, width = images.shape[1:3]
    rows = _outside(drawn.row, drawn.side, height)
    columns = _outside(drawn.column, drawn.side, width)
    outside = tf.maximum(rows[:, :, tf.newaxis], columns[:, tf.newaxis])
    share = drawn.kept[:, tf.newaxis, tf.newaxis] * outside
    share = tf.repeat(share, 2, axis=0)
    own = tf.cast(images, tf.float32)
    pixels = share[..., tf.newaxis]
    mixed = pixels * own + (1.0 - pixels) * partners(own)
    return tf.cast(mixed, images.dtype), tf.reduce_mean(share, [1, 2])


def partners(rows):
    """What each row's neighbour has: rows 2k and 2k + 1 change places.

    Args:
        rows: tensor `(batch, …)`, of images or labels; `batch` even.
    """
    if rows.shape[0] is not None and rows.shape[0] % 2:
        raise ValueError(
            f"{rows.shape[0]} images of a replica cannot be mixed in pairs; use a "
            "batch size that gives every replica an even number."
        )
    pairs = tf.reshape(rows, tf.concat([[-1, 2], tf.shape(rows)[1:]], 0))
    return tf.reshape(tf.gather(pairs, [1, 0], axis=1), tf.shape(rows))


def _outside(centre, side, length):
    """float32 `(pairs, length)`: 0 where a box lies along this side, else 1."""
    half = tf.floor(tf.floor(side * length) / 2.0)
    middle = tf.floor(centre * length)
    place = tf.range(length, dtype=tf.float32)
    low, high = (x[:, tf.newaxis] for x in (middle - half, middle + half))
    return tf.cast((place < low) | (place >= high), tf.float32)


def _log_gamma(alpha, u):
    """Logarithms of Gamma(alpha) variates, exact, from uniform numbers.

    Marsaglia and Tsang, 2000, "A simple method for generating gamma variables": the
    first accepted try of Gamma(alpha + 1), times U^(1 / alpha). By operations that XLA
    has, which `tf.random.stateless_gamma` is not.

    Args:
        alpha: float32 `(n,)`, > 0.
        u: float32 `(n, 3 * tries + 1)` in (0, 1).
    """
    first, second, third, boost = tf.split(u, [_TRIES] * _PER_TRY + [1], axis=1)
    d = alpha[:, tf.newaxis] + (1.0 - 1.0 / 3.0)
    normal = tf.sqrt(-2.0 * tf.math.log(first)) * tf.cos(2.0 * math.pi * second)
    root = tf.maximum(1.0 + normal / tf.sqrt(9.0 * d), 1e-6)
    v = root**3
    log_v = 3.0 * tf.math.log(root)
    bound = 0.5 * tf.square(normal) + d * (1.0 - v + log_v)
    accepted = (root > 1e-6) & (tf.math.log(third) < bound)
    chosen = tf.argmax(tf.cast(accepted, tf.float32), axis=1)  # Of ints no GPU has it.
    log_v = tf.gather(log_v, chosen, batch_dims=1)
    return tf.math.log(d[:, 0]) + log_v + tf.math.log(boost[:, 0]) / alpha

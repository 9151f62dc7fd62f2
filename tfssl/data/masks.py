"""Masks of patches: which of an image are hidden from a network that is to guess them.

A mask is a function of its image's place in the training stream, and of nothing else:
no state, equal on one replica and on several, and after a resume.
"""

import math

import tensorflow as tf

from tfssl import checks, stateless

FORMS = ("paper", "released")
_ASPECT = 0.3  # The least of a block; the largest is its inverse.
_TRIES = 10  # Of one block, in the released form.
_MOST_BLOCKS = 1024  # That are tried for a mask; a handful is enough.


def blockwise(
    height, width, *, positions, seed, ratio=0.4, min_patches=16, form="paper"
):
    """Masks made of blocks: rectangles are hidden until there are enough.

    In the form of the paper (Algorithm 1) a block of area `s` from
    `U(min_patches, ratio * N - hidden)` and aspect `r` from `U(0.3, 1 / 0.3)` is
    `sqrt(s r)` high and `sqrt(s / r)` wide, rounded, at a random place; blocks are
    added until more than `ratio * N` of the `N` patches are hidden. The last may
    overlap others or go beyond what was wanted.

    In the form of the authors' code the logarithm of the aspect is uniform, a block
    must be smaller than the grid both ways and hide at least one patch more, but no
    more than are missing to `round(ratio * N)`. Ten that do not in a row end the mask:
    it has at most so many patches, and sometimes less. The code's ratio is 75 / 196.

    Where fewer than `min_patches` are missing, areas are between the two. In a grid
    where `ratio * N` itself is less, `min_patches` is that.

    Args:
        height: int, rows of patches.
        width: int, columns of patches.
        positions: int64 `(batch,)`, places of the images in the stream.
        seed: int, of the run.
        ratio: float in (0, 1), the share of patches to hide.
        min_patches: int >= 1, the least area of a block.
        form: `"paper"` or `"released"`.

    Returns:
        bool `(batch, height, width)`, True where a patch is hidden.

    Raises:
        ValueError: for arguments out of their range, or a ratio that hides no patch.

    Reference:
        Bao et al., 2022, https://arxiv.org/abs/2106.08254, Algorithm 1, and
        microsoft/unilm, beit, masking_generator.py.
    """
    check(height, width, ratio=ratio, min_patches=min_patches, form=form)
    count, released = height * width, form == "released"
    wanted = float(round(ratio * count)) if released else ratio * count
    least = min(float(min_patches), wanted)
    positions = tf.cast(positions, tf.int64)

    def hidden(mask):
        return tf.reduce_sum(tf.cast(mask, tf.float32), axis=[1, 2])

    def unfinished(mask, failed):
        now = hidden(mask)
        return (now < wanted) & (failed < _TRIES) if released else now <= wanted

    def body(number, mask, failed):
        keys = positions * _MOST_BLOCKS + tf.cast(number, tf.int64)
        u = stateless.uniform(seed, keys, 4, purpose="blockwise mask")
        missing = wanted - hidden(mask)
        block, fits = _block(u, least, missing, (height, width), released)
        more = hidden(mask | block) - hidden(mask)
        taken = unfinished(mask, failed)
        if released:
            good = fits & (more > 0) & (more <= missing)
            # What has ended stays so.
            failed = tf.where(taken & ~good, failed + 1, tf.where(taken, 0, failed))
            taken &= good
        mask |= block & taken[:, tf.newaxis, tf.newaxis]
        return [number + 1, mask, failed]

    batch = tf.shape(positions)[0]
    _, mask, _ = tf.while_loop(
        lambda number, mask, failed: tf.reduce_any(unfinished(mask, failed)),
        body,
        [
            tf.constant(0),
            tf.zeros([batch, height, width], tf.bool),
            tf.zeros([batch], tf.int32),
        ],
        shape_invariants=[
            tf.TensorShape([]),
            tf.TensorShape([positions.shape[0], height, width]),
            tf.TensorShape([positions.shape[0]]),
        ],
        maximum_iterations=_MOST_BLOCKS,
    )
    return mask


def check(height, width, *, ratio, min_patches, form):
    """Raises `ValueError` for arguments that `blockwise` does not take."""
    checks.whole({"height": height, "width": width}, "height", "width")
    checks.true_share({"ratio": ratio}, "ratio")
    checks.whole({"min_patches": min_patches}, "min_patches")
    checks.one_of({"form": form}, "form", FORMS)
    count = height * width
    if ratio * count < 1 or round(ratio * count) >= count:
        raise ValueError(
            f"ratio={ratio} received for a grid of {height} x {width} patches, of "
            "which it hides none or all; take another ratio or smaller patches."
        )


def _block(u, least, missing, grid, released):
    """A rectangle for each image, and whether it is smaller than the grid."""
    area = least + u[:, 0] * (missing - least)
    if released:
        aspect = tf.exp(math.log(_ASPECT) * (1.0 - 2.0 * u[:, 1]))
    else:
        aspect = _ASPECT + u[:, 1] * (1 / _ASPECT - _ASPECT)
    lengths = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (lengths[0] < grid[0]) & (lengths[1] < grid[1])
    inside = []
    for length, side, place in zip(lengths, grid, (u[:, 2], u[:, 3])):
        length = tf.clip_by_value(length, 1.0, float(side))
        begin = tf.floor(place * (side - length + 1.0))
        number = tf.range(side, dtype=tf.float32)
        begin, length = begin[:, tf.newaxis], length[:, tf.newaxis]
        inside.append((number >= begin) & (number < begin + length))
    rows, columns = inside
    return rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :], fits

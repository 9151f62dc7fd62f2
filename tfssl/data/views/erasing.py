"""Random erasing: a rectangle of an image becomes noise.

Reference:
    Zhong et al., 2020, https://arxiv.org/abs/1708.04896, with the numbers of DeiT
    (timm's `RandomErasing`, mode "pixel"): an area of 0.02 to 1/3 of the image, an
    aspect ratio of 0.3 to 1/0.3, drawn logarithmically, and normal noise in every pixel
    and channel.

Differences: the noise has the mean and the deviation of ImageNet's colours. That is
timm's standard normal noise where a view is normalised by them, and the same colours
where it is not; of other than three channels it has their averages. One rectangle is
drawn where timm tries ten times: one that is higher or wider than the image is cut.
"""

import math

import numpy as np
import tensorflow as tf

from tfssl import stateless
from tfssl.data.views.specs import IMAGENET_MEAN, IMAGENET_STD

_AREA = (0.02, 1 / 3)
_ASPECT = 0.3
_SEEDS = 2**23  # All of them are whole in float32.
# Uniform numbers: whether, area, aspect, row, column, and the seed of the noise.
WIDTH = 6
# Numbers of `pack`: first and last row, the same of columns, and the seed.
PACKED = 5


def width(recipe):
    """How many numbers a view of this recipe has for it; 0 for none."""
    return WIDTH * any(view.erase for view in recipe)


def pack(u, recipe):
    """Turns uniform numbers into rectangles.

    Args:
        u: float32 `(batch, views, WIDTH)` in [0, 1).
        recipe: sequence of `View`.

    Returns:
        float32 `(batch, views, PACKED)`: the first row, the row behind the last, the
        same of columns, all 0 where nothing is erased; and the noise's seed.
    """
    coin, area, aspect, row, column, seed = tf.unstack(u, axis=-1)
    erased = coin < np.array([view.erase for view in recipe], np.float32)
    size = np.array([view.size for view in recipe], np.float32)
    pixels = (_AREA[0] + area * (_AREA[1] - _AREA[0])) * size**2
    ratio = tf.exp((2 * aspect - 1) * -math.log(_ASPECT))
    sides = []
    for side, place in ((pixels * ratio, row), (pixels / ratio, column)):
        side = tf.minimum(tf.round(tf.sqrt(side)), size)
        first = tf.floor(place * (size - side + 1))
        sides += [first, first + side]
    sides = [tf.where(erased, side, 0.0) for side in sides]
    return tf.stack([*sides, tf.floor(seed * _SEEDS)], axis=-1)


def run(image, packed, view):
    """Erases a rectangle of one image, or nothing.

    Args:
        image: float32 `(size, size, channels)`, finished: normalised, if the view is.
        packed: float32 `(PACKED,)`, a view's row of `pack`.
        view: the `View`.

    Returns:
        float32 of the same shape.
    """
    return tf.cond(
        packed[1] > 0,
        lambda: run_batch(image[tf.newaxis], packed[tf.newaxis], view)[0],
        lambda: image,
    )


def run_batch(images, packed, view):
    """As `run`, for `(batch, size, size, channels)` and `(batch, PACKED)`."""
    size, channels = images.shape[-2:]
    *ends, seed = tf.unstack(packed, axis=1)
    pixel = tf.range(size, dtype=tf.float32)
    top, bottom, left, right = (end[:, tf.newaxis] for end in ends)
    rows = (pixel >= top) & (pixel < bottom)
    columns = (pixel >= left) & (pixel < right)
    inside = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    noise = _noise(seed, size * size * channels)
    noise = tf.reshape(noise, [-1, size, size, channels])
    mean, std = _colours(view, channels)
    return tf.where(inside, mean + std * noise, images)


def _noise(seed, count):
    """Standard normal noise of each seed: float32 `(batch, count)`."""
    keys = tf.cast(seed, tf.int64)
    return tf.math.ndtri(stateless.uniform(0, keys, count, purpose="random erasing"))


def _colours(view, channels):
    """Mean and deviation of the noise, in the values of finished images."""
    mean, std = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)
    if channels != 3:
        mean, std = mean.mean(), std.mean()
    if view.mean is not None:
        scale = np.float32(view.std)
        mean, std = (mean - np.float32(view.mean)) / scale, std / scale
    return mean, std

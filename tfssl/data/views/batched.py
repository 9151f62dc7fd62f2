"""Views of many small images at once: the same views, far fewer operations.

At 32 pixels the cost of an image is that of starting operations, not of their
arithmetic. Here every operation works on a batch: crop, flip and resize become two
matrix products per view, whose matrices hold the weights of TensorFlow's own
resize kernels. The results equal those of `views.apply` up to rounding (within
1e-5, tested).
"""

import numpy as np
import tensorflow as tf

from tfssl.data.views import (
    alike,
    applying,
    color,
    erasing,
    image_ops,
    packing,
    rand_augment,
    tiles,
)
from tfssl.data.views.specs import Tile

SMALL = 64  # Up to this side, of images and views, this is the faster way.
# TensorFlow's bicubic kernel looks its weights up at this many offsets.
_CUBIC_TABLE = 1024


def largest(recipe):
    """Side of the largest view of a recipe, of one in tiles as a whole."""
    return max(view.untiled().size for view in recipe)


def is_small(recipe):
    """Whether all views of a recipe are of those that are made here."""
    return largest(recipe) <= SMALL


def suits(source, recipe):
    """Whether views are to be made here, of the pixels that a source has stacked."""
    stacked = source.stacked is not None and max(source.image_size) <= SMALL
    return stacked and is_small(recipe)


def geometry(images, packed, recipe, product=tf.matmul):
    """Crops, flips, resizes images of one size, cuts tiles; values stay as they are.

    Args:
        images: `(batch, height, width, channels)`, static but for the batch.
        packed: float32 `(batch, views, packed)` from `views.pack`.
        recipe: the recipe, flat.
        product: function of matrices `(…, n, m)` and `(…, m, k)` -> their product.

    Returns:
        List of float32 `(batch, size, size, channels)`, one per view.
    """
    _, height, width, channels = images.shape
    images = tf.cast(images, tf.float32)
    crops = tf.cast(packing.boxes(packed, recipe, height, width), tf.float32)

    def cut(view, crop, row):
        flipped = packing.fields(row, recipe, channels)["flip"][:, 0] > 0.5
        return _resized(images, crop, flipped, view, product)

    cut, made, whole = alike.traced_once(cut, recipe), [], None
    rows, crops = (tf.unstack(x, len(recipe), axis=1) for x in (packed, crops))
    for view, crop, row in zip(recipe, crops, rows):
        if not isinstance(view, Tile):
            made.append(cut(view, crop, row))
            continue
        named = packing.fields(row, recipe, channels)
        flipped = named["flip"][:, 0] > 0.5
        if tiles.is_first(view):
            whole = _resized(images, crop, None, view.untiled(), product)
        made.append(tiles.cut(whole, named["cell"], flipped, view))
    return made


def _resized(images, crop, flipped, view, product):
    """One view of `geometry`: the crop of every image, flipped and resized."""
    _, height, width, channels = images.shape
    rows = tf.reshape(images, [-1, height, width * channels])
    top, left, high, wide = tf.unstack(crop, axis=1)
    down = _weights(top, high, None, height, view)
    across = _weights(left, wide, flipped, width, view)
    out = tf.reshape(product(down, rows), [-1, view.size, width, channels])
    if channels == 1:
        across = tf.transpose(across, [0, 2, 1])
        out = product(out[..., 0], across)[..., tf.newaxis]
    else:
        out = product(across[:, tf.newaxis], out)
    return tf.ensure_shape(out, [None, view.size, view.size, channels])


def summed(a, b):
    """As `tf.matmul`, in full float32 on a GPU too, for XLA, which fuses it.

    A GPU's own product of matrices rounds to numbers of ten bits (TF32).
    """
    return tf.reduce_sum(a[..., tf.newaxis] * b[..., tf.newaxis, :, :], -2)


def finish(resized, packed, recipe, white):
    """All that follows the resize: affine map, colour, blur, and so on to the end.

    Args:
        resized: list of float32 `(batch, size, size, channels)`, one per view.
        packed: float32 `(batch, views, packed)` from `views.pack` with `white=1`.
        recipe: sequence of `View`.
        white: the value in `resized` that stands for 1.0.

    Returns:
        Tuple of float32 `(batch, size, size, channels)`, one per view.
    """
    channels = resized[0].shape[-1]

    def finished(view, row, images):
        named = packing.fields(row, recipe, channels)
        return _toned(placed(images, named, view, white), named, view)

    rows = tf.unstack(packed, len(recipe), axis=1)
    return tuple(map(alike.traced_once(finished, recipe), recipe, rows, resized))


def placed(images, named, view, white):
    """What of `finish` comes before colour: a clip, the affine map, RandAugment.

    Args:
        images: float32 `(batch, size, size, channels)`, one view of the batch.
        named: dict of `packing.fields`, that view's.
        view: the `View`.
        white: the value in `images` that stands for 1.0.

    Returns:
        float32 of the same shape, where 1.0 is white.
    """
    images = images * (1.0 / white)
    if view.clip_resized:
        images = tf.clip_by_value(images, 0.0, 1.0)
    if packing.has_affine(view):
        turn, lean, move = tf.split(named["affine"], [1, 1, 2], 1)
        images = image_ops.affine(images, turn[:, 0], lean[:, 0], move)
    if view.rand_augment:
        images = rand_augment.run_batch(images, named["rand_augment"], view)
    return images


def _toned(images, named, view):
    """The rest of `finish`: colour, blur, solarise, normalise, erase."""
    size, channels = images.shape[-2:]
    if color.is_plain(view, channels):
        images = applying.plain(images, view, 1.0)
    else:
        pixels = tf.reshape(images, [-1, size * size, channels])
        pixels = color.run_batch(pixels, named)
        images = tf.reshape(pixels, [-1, size, size, channels])
    if view.blur:
        taps = applying.taps_of(view, named["taps"])
        images = image_ops.blur_batch(images, taps, view.blur_border)
    if view.solarize:
        images = applying.solarized(images, view, inverted_top(named))
    if view.mean is not None and not color.folds_normalization(view, channels):
        images = applying.normalized(images, view)
    if view.erase:
        images = erasing.run_batch(images, named["erase"], view)
    return images


def inverted_top(named):
    """`(batch, 1, 1, 1)`, `top` of `applying.solarized` for each image."""
    top = tf.where(named["solarize"] > 0.5, 1.0, np.inf)
    return top[:, tf.newaxis, tf.newaxis]


def _weights(begin, length, flipped, available, view):
    """Matrices `(batch, size, available)` that crop, flip and resize one axis."""
    size = view.size
    scale = (length / size)[:, tf.newaxis, tf.newaxis]
    begin, length = (x[:, tf.newaxis, tf.newaxis] for x in (begin, length))
    pixel = tf.range(available, dtype=tf.float32) - begin  # In the crop.
    inside = (pixel >= 0) & (pixel < length)
    if flipped is not None:
        turned = flipped[:, tf.newaxis, tf.newaxis]
        pixel = tf.where(turned, length - 1.0 - pixel, pixel)
    out = tf.range(size, dtype=tf.float32)[:, tf.newaxis]
    centre = (out + 0.5) * scale - 0.5
    if view.antialias:
        stretch = tf.maximum(scale, 1.0)
        distance = tf.abs(pixel - centre) / stretch
        kernel = _cubic if view.resize == "bicubic" else _triangle
        weights = tf.where(inside, kernel(distance), 0.0)
    elif view.resize == "bilinear":
        below = tf.floor(centre)
        low = tf.maximum(below, 0.0)
        high = tf.minimum(below + 1.0, length - 1.0)
        share = centre - below
        weights = tf.where(pixel == low, 1.0 - share, 0.0)
        return weights + tf.where(pixel == high, share, 0.0)
    else:
        below = tf.floor(centre)
        share = tf.round((centre - below) * _CUBIC_TABLE) / _CUBIC_TABLE
        distance = tf.abs(pixel - below - share)
        weights = tf.where(inside, _cubic(distance), 0.0)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def _triangle(distance):
    return tf.maximum(1.0 - distance, 0.0)


def _cubic(x):
    """Keys' kernel, a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))

"""Operations on images without any randomness: crop, resize, colour, blur.

Every function runs in a TensorFlow graph, takes its numbers as arguments and
returns the same result for the same arguments. Images are `(height, width,
channels)`; floating images hold values in [0, 1].
"""

import math

import numpy as np
import tensorflow as tf

from tfssl import checks

_RESIZE = ("bilinear", "bicubic")
# Values of an image that is cast before a resize: 16 MB of float32.
_CAST_UP_TO = 1 << 22
# Smallest crop by height, of the image: SimCLR's `min_object_covered`.
_COVERED = 0.1
# Four standard deviations hold all but 6e-5 of a Gaussian.
_SIGMAS_KEPT = 4.0


def check_resize(method):
    """Raises `ValueError` unless `method` names a resize filter."""
    checks.one_of({"resize": method}, "resize", _RESIZE)


def as_numbers(value, name):
    """A mean or std as given, one number or several, as a tuple of floats."""
    found = value.tolist() if isinstance(value, np.ndarray) else value
    try:
        found = tuple(found)
    except TypeError:
        found = (found,)
    if not found or not all(checks.is_number(x) and math.isfinite(x) for x in found):
        raise checks.refused(name, value, "one number, or one per channel")
    return tuple(map(float, found))


def check_normalization(mean, std):
    """Raises `ValueError` unless these are of values in [0, 1]."""
    if max(mean) > 1:
        expected = (
            "that of values in [0, 1]: divide mean and std of 8-bit values by 255"
        )
        raise checks.refused("mean", mean, expected)
    if min(std) <= 0:
        raise checks.refused("std", std, "values above 0")


# Geometry ---------------------------------------------------------------------


def crop_boxes(areas, aspects, place, height, width, fallback, by_height=None):
    """Turns drawn crop numbers into a box of whole pixels inside an image.

    The first try whose rectangle fits is taken (RandomResizedCrop); `areas` are
    fractions of the image's area and `aspects` are width over height.

    Args:
        areas: float32 `(..., tries)`, each in (0, 1]; with `by_height` in [0, 1):
            where the height lies between the smallest and the largest one.
        aspects: float32 `(..., tries)`, each > 0.
        place: float32 `(..., 2)` in [0, 1): where the box lies, from top and left.
        height: int32 scalar, rows of the image, at least 1.
        width: int32 scalar, columns of the image, at least 1.
        fallback: what happens if no try fits: `"center"` is the largest central
            rectangle of an allowed aspect ratio (torchvision; the allowed ratios
            are those of the tries, which is as near as the numbers tell),
            `"whole"` the whole image (TensorFlow), `"clamp"` the last try with
            its sides cut to the image (BYOL, with one try).
        by_height: None, or the smallest and largest area of a crop, to do as
            `tf.image.sample_distorted_bounding_box` with its `min_object_covered` at
            0.1 does: the height is uniform between what these areas allow, a crop of
            less than a tenth of the image does not fit, and none touches the last
            row or column unless it touches the first.

    Returns:
        int32 `(..., 4)`: `[top, left, height, width]`.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    if by_height:
        high, wide, fits = _by_height(areas, aspects, rows, columns, by_height)
        beyond = 0.0
    else:
        pixels = areas * (rows * columns)
        wide = tf.maximum(tf.round(tf.sqrt(pixels * aspects)), 1.0)
        high = tf.maximum(tf.round(tf.sqrt(pixels / aspects)), 1.0)
        fits = (wide <= columns) & (high <= rows)
        beyond = 1.0
    fits = tf.cast(fits, tf.float32)
    # The weight of try t is 1 for the first that fits, else 0.
    first = fits * tf.cast(tf.cumsum(fits, axis=-1) < 1.5, tf.float32)
    found = tf.reduce_sum(first, -1)
    if fallback == "clamp":
        else_wide = tf.minimum(wide[..., -1], columns)
        else_high = tf.minimum(high[..., -1], rows)
    elif fallback == "whole":
        else_wide, else_high = columns, rows
    else:
        ratio = tf.minimum(
            tf.maximum(columns / rows, tf.reduce_min(aspects, -1)),
            tf.reduce_max(aspects, -1),
        )
        else_wide = tf.clip_by_value(tf.round(rows * ratio), 1.0, columns)
        else_high = tf.clip_by_value(tf.round(columns / ratio), 1.0, rows)
        place = tf.where(found[..., tf.newaxis] > 0, place, 0.5)
    wide = tf.reduce_sum(first * wide, -1) + (1.0 - found) * else_wide
    high = tf.reduce_sum(first * high, -1) + (1.0 - found) * else_high
    spare, beside = rows - high, columns - wide
    top = tf.minimum(tf.floor(place[..., 0] * (spare + beyond)), spare)
    left = tf.minimum(tf.floor(place[..., 1] * (beside + beyond)), beside)
    return tf.cast(tf.stack([top, left, high, wide], -1), tf.int32)


def _by_height(shares, aspects, rows, columns, areas):
    """Heights, widths and whether they fit: `GenerateRandomCrop` of TensorFlow."""
    least, most = areas[0] * (rows * columns), areas[1] * (rows * columns)
    tallest = tf.round(tf.sqrt(most / aspects))
    too_wide = tf.round(tallest * aspects) > columns
    tallest = tf.where(too_wide, tf.floor((columns + 0.5) / aspects), tallest)
    tallest = tf.minimum(tallest, rows)
    shortest = tf.minimum(tf.round(tf.sqrt(least / aspects)), tallest)
    drawn = tf.floor(shares * (tallest - shortest + 1.0))
    high = tf.minimum(shortest + drawn, tallest)
    # One row more or less, where rounding led out of the areas.
    high += tf.cast(tf.round(high * aspects) * high < least, tf.float32)
    high -= tf.cast(tf.round(high * aspects) * high > most, tf.float32)
    wide = tf.round(high * aspects)
    pixels = wide * high
    least = tf.maximum(least, _COVERED * (rows * columns))
    inside = (wide <= columns) & (high <= rows)
    return high, wide, inside & (pixels >= least) & (pixels <= most) & (pixels > 0.0)


def resize(image, size, method="bilinear", antialias=False, turned=False):
    """Resizes `(height, width, c)` or a batch of them to `size` x `size`, float32.

    Pixel centres lie at half coordinates. Without `antialias` only the nearest
    2 x 2 (4 x 4 bicubic, a = -0.5) input pixels count, as in TensorFlow's own
    papers; with it the filter widens as the image shrinks, as in PIL. With `turned`
    rows and columns of the result have changed places, which saves work if
    `antialias`.
    """
    single = len(image.shape) == 3
    batch = tf.expand_dims(image, 0) if single else image
    if antialias:
        out = _resize_antialiased(batch, size, method)
    elif method == "bilinear":
        out = tf.raw_ops.ResizeBilinear(
            images=batch, size=[size, size], half_pixel_centers=True
        )
    else:
        out = _resize_bicubic(batch, size)
    shape = [size, size, batch.shape[-1]]
    out = tf.reshape(out, shape if single else [-1, *shape])
    return out if turned == antialias else turn(out)


def _resize_bicubic(batch, size):
    """By a kernel that reads float32 faster; a huge image is not copied for that."""

    def cubic(images):
        return tf.raw_ops.ResizeBicubic(
            images=images, size=[size, size], half_pixel_centers=True
        )

    if batch.dtype == tf.float32:
        return cubic(batch)
    return tf.cond(
        tf.size(batch) <= _CAST_UP_TO,
        lambda: cubic(tf.cast(batch, tf.float32)),
        lambda: cubic(batch),
    )


def turn(image):
    """Rows and columns of `(…, rows, columns, c)` change places."""
    lead = range(image.shape.rank - 3)
    row, column, channel = range(len(lead), image.shape.rank)
    return tf.transpose(image, [*lead, column, row, channel])


def _resize_antialiased(batch, size, method):
    """`tf.image.resize(…, antialias=True)` to the last bit, in a fourth of the time.

    Turned, see `resize`.

    TensorFlow's operation adds rows with long inner loops, and then pixels of a few
    channels one by one. Here it only ever adds rows, of an image one pixel wide whose
    channels are all columns and colours; between, columns and rows change places.
    """
    kernel = {"bilinear": "triangle", "bicubic": "keyscubic"}[method]
    count, channels = tf.shape(batch)[0], batch.shape[-1]

    def down(x, length, others):
        out = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(x, [count, length, 1, others]),
            size=[size, 1],
            scale=tf.stack([size / tf.cast(length, tf.float32), 1.0]),
            translation=[0.0, 0.0],
            kernel_type=kernel,
            antialias=True,
        )
        return tf.reshape(out, [count, size, others // channels, channels])

    height, width = tf.shape(batch)[1], tf.shape(batch)[2]
    half = down(batch, height, width * channels)
    return down(turn(half), width, size * channels)


def affine(images, rotation, shear, translation):
    """Rotates, shears and moves square images about their centre.

    An output pixel at offset `(x, y)` from the centre is read, bilinearly, from
    the input at `R(-rotation) S(-shear) ((x, y) - translation)`; outside the
    image the nearest edge pixel counts.

    Args:
        images: float32 `(batch, size, size, channels)`.
        rotation: float32 `(batch,)`, radians, counter-clockwise as seen.
        shear: float32 `(batch,)`, columns moved per row (a slope, unitless).
        translation: float32 `(batch, 2)`, fractions of the size, right and down.
    """
    size = images.shape[1]
    half = (size - 1) / 2.0
    cos, sin = tf.cos(rotation), tf.sin(rotation)
    # Output to input. Rows grow downwards, so this angle turns as seen.
    a0, a1 = cos, -sin - shear * cos
    b0, b1 = sin, cos - shear * sin
    moved_x = half + translation[:, 0] * size
    moved_y = half + translation[:, 1] * size
    a2 = half - a0 * moved_x - a1 * moved_y
    b2 = half - b0 * moved_x - b1 * moved_y
    zero = tf.zeros_like(cos)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], 1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def smoothed(images):
    """The mean of the pixels around each inner pixel, itself counted five times.

    What PIL's sharpness is about, in AutoAugment too.

    Args:
        images: `(…, rows, columns, c)`, three pixels a side or more.

    Returns:
        `(…, rows - 2, columns - 2, c)`.
    """
    across = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    around = across[..., :-2, :, :] + across[..., 1:-1, :, :] + across[..., 2:, :, :]
    return (around + 4.0 * images[..., 1:-1, 1:-1, :]) / 13.0


# Blur -------------------------------------------------------------------------


def blur_radius(sigma_max, size):
    """Half width in pixels of the kernel kept for blurs up to `sigma_max`."""
    return int(max(1, min(np.ceil(_SIGMAS_KEPT * sigma_max), size - 1)))


def gaussian_taps(sigma, radius):
    """`(..., 2 radius + 1)` weights of sum 1; `sigma` 0 is the identity."""
    offset = tf.range(-radius, radius + 1, dtype=tf.float32)
    safe = tf.maximum(sigma, 1e-3)[..., tf.newaxis]
    taps = tf.exp(-0.5 * tf.square(offset / safe))
    return taps / tf.reduce_sum(taps, -1, keepdims=True)


def _border_rows(size, count, radius, border):
    """Rows read for `count` output rows and `radius` more on each side."""
    wanted = np.arange(-radius, count + radius)
    if border == "reflect":
        padding = (radius, count - size + radius)
        return np.pad(np.arange(size), padding, mode="reflect"), None
    rows = np.clip(wanted, 0, size - 1)
    mask = (wanted == rows).astype(np.float32) if border == "zero" else None
    return rows, mask


def blur(image, taps, border, turned=False):
    """Separable Gaussian blur of one image by a banded matrix product.

    Rows are gathered into overlapping blocks, so that every product is a dense
    `(block, block + 2 radius)` matrix; the border is part of the gather.

    Args:
        image: float32 `(size, size, channels)`, `size` static.
        taps: float32 `(2 radius + 1,)` of sum 1.
        border: `"zero"`, `"edge"` or `"reflect"`.
        turned: whether rows and columns of `image` have changed places. In the result
            they have not.
    """
    size, channels = image.shape[0], image.shape[2]
    radius = (taps.shape[0] - 1) // 2
    block = min(16, size)
    blocks = -(-size // block)
    rows, mask = _border_rows(size, blocks * block, radius, border)
    span = block + 2 * radius
    starts = np.arange(blocks)[:, np.newaxis] * block + np.arange(span)
    rows = rows[starts].astype(np.int32)
    shift = np.arange(span) - np.arange(block)[:, np.newaxis]
    inside = (shift >= 0) & (shift <= 2 * radius)
    padded = tf.concat([taps, [0.0]], 0)
    band = tf.gather(padded, np.where(inside, shift, 2 * radius + 1).astype(np.int32))
    if mask is not None:
        band = band * mask[starts][:, np.newaxis, :]
    else:
        band = tf.tile(band[tf.newaxis], [blocks, 1, 1])

    def down(x):  # Blurs along the first axis.
        flat = tf.reshape(x, [size, size * channels])
        y = tf.matmul(band, tf.gather(flat, rows))
        y = tf.reshape(y, [blocks * block, size, channels])
        return y[:size] if blocks * block > size else y

    across = down(turn(down(image)))
    return across if turned else turn(across)


def blur_batch(images, taps, border):
    """`blur` for a batch of small images, each with its own taps.

    Args:
        images: float32 `(batch, size, size, channels)`.
        taps: float32 `(batch, 2 radius + 1)`.
        border: as for `blur`.
    """
    size, channels = images.shape[1], images.shape[3]
    radius = (taps.shape[-1] - 1) // 2
    rows, mask = _border_rows(size, size, radius, border)
    # spread[t, i, j] = 1 where output i reads input j by tap t.
    spread = np.zeros([2 * radius + 1, size, size], np.float32)
    for tap in range(2 * radius + 1):
        for i in range(size):
            seen = 1.0 if mask is None else mask[i + tap]
            spread[tap, i, rows[i + tap]] += seen
    matrix = tf.matmul(taps, spread.reshape(2 * radius + 1, -1))
    matrix = tf.reshape(matrix, [-1, size, size])
    flat = tf.reshape(images, [-1, size, size * channels])
    down = tf.reshape(tf.matmul(matrix, flat), [-1, size, size, channels])
    return tf.matmul(matrix[:, tf.newaxis], down)


def blur_planes(planes, taps, border):
    """As `blur_batch`, for `(batch, channels, size, size)`, to be compiled.

    A sum of shifted images, which takes no more memory than they do. Without products
    of matrices, which a GPU computes on numbers of ten bits.
    """
    size, count = planes.shape[-1], taps.shape[-1]
    rows, mask = _border_rows(size, size, (count - 1) // 2, border)
    weights = tf.split(taps[:, :, tf.newaxis, tf.newaxis], count, axis=1)
    for axis in (2, 3):
        padded = tf.gather(planes, rows.astype(np.int32), axis=axis)
        if mask is not None:
            padded *= mask[:, np.newaxis] if axis == 2 else mask
        shifted = [
            padded[:, :, n : n + size] if axis == 2 else padded[..., n : n + size]
            for n in range(count)
        ]
        planes = sum(w * x for w, x in zip(weights, shifted))
    return planes

"""RandAugment: a few operations out of sixteen, each drawn anew for every image.

Reference:
    Cubuk et al., 2020, https://arxiv.org/abs/1909.13719, and the authors' code
    (tensorflow/tpu, efficientnet/autoaugment.py), whose operations, strengths and
    nearest-pixel geometry these are.

Differences: values are float32 in [0, 1], and only what is defined on 8-bit levels
(posterise, solarise, equalise) rounds to them; contrast is about the mean of the grey
image, as in PIL (the code divides the number of pixels by 256 instead); moves and
cutouts are the code's for 224 pixels and grow with the view; one bit or more is left by
posterising (the code leaves none below magnitude 2.5).
"""

import numpy as np
import tensorflow as tf

from tfssl.data.sources.decoding import LUMA
from tfssl.data.views import image_ops

# The magnitude at which an argument is the largest of AutoAugment.
_FULL = 10.0
# Size of the views for which the code's pixels are meant.
_SIZE = 224
_LEVELS = 256
# What lies beyond the image, and in a cutout.
_GRAY = 128 / 255
# Numbers of one operation: which, how strong, and where (row, column).
WIDTH = 4


def _auto_contrast(image, argument, place):
    low = tf.reduce_min(image, [0, 1])
    spread = tf.reduce_max(image, [0, 1]) - low
    stretched = (image - low) / tf.where(spread > 0, spread, 1.0)
    return tf.where(spread > 0, stretched, image)


def _equalize(image, argument, place):
    """Per channel, as PIL does it: whole numbers, from a table of the 256 levels."""
    channels = image.shape[-1]
    bins = tf.cast(_level(image), tf.int32) + _LEVELS * tf.range(channels)
    bins = tf.reshape(bins, [-1])
    counts = tf.math.bincount(bins, minlength=_LEVELS * channels)
    counts = tf.reshape(counts, [channels, _LEVELS])
    last = _LEVELS - 1 - tf.argmax(counts[:, ::-1] > 0, axis=1, output_type=tf.int32)
    most = tf.gather(counts, last, batch_dims=1)
    step = (tf.reduce_sum(counts, 1) - most)[:, tf.newaxis] // (_LEVELS - 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = (below + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, _LEVELS - 1), tf.range(_LEVELS))
    equalized = tf.gather(tf.reshape(table, [-1]), bins)
    return tf.cast(tf.reshape(equalized, tf.shape(image)), tf.float32) / 255.0


def _invert(image, argument, place):
    return 1.0 - image


def _rotate(image, argument, place):
    cos, sin = tf.cos(argument), tf.sin(argument)
    half = (image.shape[0] - 1) / 2.0
    across, down = half * (1.0 - cos + sin), half * (1.0 - cos - sin)
    return _moved(image, cos, -sin, across, sin, cos, down)


def _posterize(image, argument, place):
    return tf.floor(_level(image) / argument) * argument / 255.0


def _solarize(image, argument, place):
    return tf.where(_level(image) < argument, image, 1.0 - image)


def _solarize_add(image, argument, place):
    lighter = tf.minimum(image + argument / 255.0, 1.0)
    return tf.where(_level(image) < 128.0, lighter, image)


def _color(image, argument, place):
    if image.shape[-1] != 3:
        return image
    return _blended(tf.tensordot(image, LUMA[:, np.newaxis], 1), image, argument)


def _contrast(image, argument, place):
    mean = tf.reduce_mean(image, [0, 1])
    if image.shape[-1] == 3:
        mean = tf.reduce_sum(mean * LUMA)
    return _blended(mean, image, argument)


def _brightness(image, argument, place):
    return _blended(0.0, image, argument)


def _sharpness(image, argument, place):
    """About `image_ops.smoothed`; the rim stays."""
    if image.shape[0] < 3:
        return image
    inner = _blended(image_ops.smoothed(image), image[1:-1, 1:-1], argument)
    inside = tf.pad(tf.ones_like(inner), [[1, 1], [1, 1], [0, 0]]) > 0
    return tf.where(inside, tf.pad(inner, [[1, 1], [1, 1], [0, 0]]), image)


def _shear_x(image, argument, place):
    return _moved(image, 1.0, argument, 0.0, 0.0, 1.0, 0.0)


def _shear_y(image, argument, place):
    return _moved(image, 1.0, 0.0, 0.0, argument, 1.0, 0.0)


def _translate_x(image, argument, place):
    return _moved(image, 1.0, 0.0, argument, 0.0, 1.0, 0.0)


def _translate_y(image, argument, place):
    return _moved(image, 1.0, 0.0, 0.0, 0.0, 1.0, argument)


def _cutout(image, argument, place):
    size = image.shape[0]
    middle = tf.floor(place * size)
    pixel = tf.range(size, dtype=tf.float32)
    rows, columns = (
        (pixel >= at - argument) & (pixel < at + argument) for at in tf.unstack(middle)
    )
    inside = rows[:, tf.newaxis] & columns
    return tf.where(inside[..., tf.newaxis], _GRAY, image)


# In the order of the authors' code.
OPERATIONS = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "solarize_add": _solarize_add,
}
# Their argument goes either way.
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def arguments(view):
    """The argument of every operation that has one, at a view's magnitude: a dict.

    `rotate` is in radians; `posterize` the width of a step, `solarize` a threshold and
    `solarize_add` a summand in 8-bit levels; `shear_x` and `shear_y` slopes;
    `translate_x`, `translate_y` and `cutout` (half a side) pixels; the others factors.
    """
    level = view.rand_augment_magnitude / _FULL
    pixels = level * view.size / _SIZE
    bits = min(max(int(level * 4), 1), 8)
    return {
        "rotate": np.radians(30.0 * level),
        "posterize": 2.0 ** (8 - bits),
        "solarize": int(256 * level),
        "solarize_add": int(110 * level),
        **dict.fromkeys(
            ("color", "contrast", "brightness", "sharpness"), 1.8 * level + 0.1
        ),
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * level),
        **dict.fromkeys(("translate_x", "translate_y"), 100.0 * pixels),
        "cutout": round(40.0 * pixels),
    }


def width(recipe):
    """How many numbers a view of this recipe has for its operations; 0 for none."""
    return WIDTH * max(view.rand_augment for view in recipe)


def pack(u, recipe):
    """Turns uniform numbers into operations and their arguments.

    Args:
        u: float32 `(batch, views, width)` in [0, 1).
        recipe: sequence of `View`.

    Returns:
        float32 of the same shape: for each operation its place in `OPERATIONS`, its
        argument, and two numbers in [0, 1), where a cutout lies.
    """
    table = [[arguments(v).get(name, 0.0) for name in OPERATIONS] for v in recipe]
    signed = tf.constant([name in _SIGNED for name in OPERATIONS])
    u = tf.reshape(u, [-1, len(recipe), u.shape[-1] // WIDTH, WIDTH])
    kind, sign, place = tf.split(u, [1, 1, 2], -1)
    kind = tf.floor(kind * len(OPERATIONS))
    chosen = tf.one_hot(tf.cast(kind[..., 0], tf.int32), len(OPERATIONS))
    table = tf.constant(table, tf.float32)[:, tf.newaxis]
    argument = tf.reduce_sum(chosen * table, -1, keepdims=True)
    turns = tf.gather(signed, tf.cast(kind, tf.int32)) & (sign < 0.5)
    argument = tf.where(turns, -argument, argument)
    packed = tf.concat([kind, argument, place], -1)
    return tf.reshape(packed, [-1, len(recipe), packed.shape[2] * WIDTH])


def run(image, packed, view):
    """Applies a view's operations to one image, one after the other.

    Args:
        image: float32 `(size, size, channels)`, static; cut to [0, 1] first.
        packed: float32 `(width,)`, a view's row of `pack`.
        view: the `View`.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    shape = image.shape
    image = tf.clip_by_value(image, 0.0, 1.0)
    for number in range(view.rand_augment):
        kind, argument, *place = tf.unstack(packed[WIDTH * number :][:WIDTH])
        image = tf.switch_case(
            tf.cast(kind, tf.int32),
            [
                lambda x=image, f=operation, a=argument, p=place: f(x, a, tf.stack(p))
                for operation in OPERATIONS.values()
            ],
        )
        image = tf.ensure_shape(image, shape)
    return image


def run_batch(images, packed, view):
    """As `run`, for `(batch, size, size, channels)` and `(batch, width)`."""
    return tf.map_fn(
        lambda both: run(*both, view), (images, packed), fn_output_signature=tf.float32
    )


def _level(image):
    """The nearest of the 256 levels, as float32 from 0 to 255."""
    return tf.round(image * 255.0)


def _blended(degenerate, image, factor):
    return tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 1.0)


def _moved(image, *matrix):
    """Reads pixel `(x, y)` at the nearest to `matrix (x, y, 1)`; grey lies outside."""
    size = image.shape[0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([*matrix, 0.0, 0.0])[tf.newaxis],
        output_shape=[size, size],
        fill_value=_GRAY,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]

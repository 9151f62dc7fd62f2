"""Augmentation of patches, each by itself: colours, small moves, deformations.

A view is one image; its patches are cut in the training step, and changed there, on the
device, before they are encoded. All numbers are hashes of (seed, place in the stream,
patch), so that replicas, resumed runs and XLA agree.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfssl import checks, stateless
from tfssl.data.sources.decoding import LUMA
from tfssl.data.views import color, image_ops, specs

FILLS = ("copy", "zero")
# Points of a side whose moves an elastic deformation draws.
_POINTS = 4
# AutoAugment's largest: radians, slope, fraction of the side, factor less one, bits.
_ROTATION, _SLOPE, _SHIFT, _FACTOR, _BITS = np.radians(30.0), 0.3, 0.45, 0.9, 4
PRIMITIVES = (
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "auto_contrast",
    "invert",
    "color",
    "contrast",
    "brightness",
    "solarize",
    "posterize",
    "sharpness",
)


@dataclasses.dataclass(frozen=True)
class PatchAugmentation:
    """What happens to every patch by itself; probabilities are in [0, 1].

    In this order: primitives, elastic deformation and shear (one bilinear resampling
    for all that moves pixels, about the centre of the patch), crop, histogram, colour
    jitter, grey, loss of channels. What needs RGB is left out for other channels.

    Attributes:
        crop: None, or the side in pixels of a random window of the patch that is all
            that is encoded in training.
        primitives: how many of `PRIMITIVES` a patch goes through, each drawn anew.
        primitive_strength: as a fraction of AutoAugment's largest, in [0, 1]: 1 rotates
            by up to 30 degrees.
        elastic: probability of an elastic deformation.
        elastic_strength: largest move of a point, as a fraction of the side.
        shear: probability of a further shear.
        shear_strength: its largest slope, either way.
        histogram: probability that the histogram of every channel is changed: values
            to a power of `exp(u)`.
        histogram_strength: largest `u`, either way.
        jitter: probability of the whole colour jitter.
        brightness: largest summand of the jitter, either way.
        contrast: strength d of a factor in [max(0, 1 - d), 1 + d].
        saturation: the same (RGB only).
        hue: largest shift, as a fraction of the hue circle (RGB only).
        gray: probability of losing all colour (RGB only).
        color_drop: probability of losing two of the three channels.
        color_drop_fill: what takes their place: `"copy"`, the one that is kept, or
            `"zero"`.

    Reference:
        Hénaff et al., 2019, https://arxiv.org/abs/1905.09272 (CPC v2). The defaults are
        its probabilities as they are told elsewhere; strengths, the kind of histogram
        change, and probability and fill of the colour drop are this library's.
        AutoAugment's equalisation and cutout are left out.
    """

    crop: int | None = None
    primitives: int = 2
    primitive_strength: float = 0.5
    elastic: float = 0.2
    elastic_strength: float = 0.1
    shear: float = 0.2
    shear_strength: float = 0.3
    histogram: float = 0.2
    histogram_strength: float = 0.5
    jitter: float = 0.8
    brightness: float = 32 / 255
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.2
    gray: float = 0.25
    color_drop: float = 0.25
    color_drop_fill: str = "copy"

    def __post_init__(self):
        given = vars(self)
        checks.whole(given, "crop", optional=True)
        checks.whole(given, "primitives", least=0, most=16)
        checks.share(given, "primitive_strength", "elastic", "shear", "histogram")
        checks.share(given, "jitter", "gray", "color_drop")
        checks.not_negative(given, "elastic_strength", "shear_strength")
        checks.not_negative(given, "histogram_strength", "brightness", "contrast")
        checks.not_negative(given, "saturation")
        checks.within(given, checks.Range(0, 0.5), "hue")
        checks.one_of(given, "color_drop_fill", FILLS)


_WIDTHS = {
    "place": 2,  # Of the crop, from top and left.
    "elastic": 1 + 2 * _POINTS**2,  # A coin first, here and where more than one follow.
    "shear": 2,
    "jitter": 9,  # Then brightness, contrast, saturation, hue, four keys of the order.
    "gray": 1,
    "color_drop": 2,
}


def draw(augmentation, *, seed, keys, channels):
    """The numbers of patches, a dict of float32 `(n, …)` in (0, 1).

    Args:
        augmentation: `PatchAugmentation`.
        seed: int, of the run.
        keys: int64 `(n,)`, a number of each patch in the whole stream.
        channels: int, of the images.
    """
    widths = _WIDTHS | {
        "histogram": 1 + channels,
        "primitives": 2 * augmentation.primitives,
    }
    drawn = stateless.uniform(seed, keys, sum(widths.values()), purpose="patches")
    return dict(zip(widths, tf.split(drawn, list(widths.values()), axis=-1)))


def augment(patches, numbers, augmentation):
    """Applies a `PatchAugmentation`: a pure function that XLA compiles.

    Args:
        patches: float32 `(n, side, side, channels)` in [0, 1], all but `n` static.
        numbers: from `draw`.
        augmentation: the same `PatchAugmentation`.

    Returns:
        float32 `(n, side, side, channels)` in [0, 1], of side `crop` if that is given.
    """
    chosen = _chosen(numbers["primitives"], augmentation)
    x = _moved(patches, numbers, chosen, augmentation)
    for names, sign in chosen:
        x = _toned(x, names, sign, augmentation.primitive_strength)
    x = _curved(x, numbers["histogram"], augmentation)
    x = _jittered(x, numbers, augmentation)
    return _dropped(x, numbers["color_drop"], augmentation)


def _either_way(u, strength):
    return (2.0 * u - 1.0) * strength


def _wide(x):
    """`(n,)` as a factor of patches."""
    return x[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _chosen(u, augmentation):
    """For every primitive in turn `({name: float32 (n,) of 0 and 1}, 1 or -1 (n,))`."""
    found = []
    for number in range(augmentation.primitives):
        kind = tf.cast(u[:, 2 * number] * len(PRIMITIVES), tf.int32)
        hot = tf.one_hot(kind, len(PRIMITIVES))
        sign = tf.where(u[:, 2 * number + 1] < 0.5, -1.0, 1.0)
        found.append((dict(zip(PRIMITIVES, tf.unstack(hot, axis=1))), sign))
    return found


# Where pixels come from ---------------------------------------------------------


def _moved(x, numbers, chosen, augmentation):
    """All that moves pixels, and the crop, by one resampling."""
    side = x.shape[1]
    size = augmentation.crop or side
    if not (chosen or augmentation.elastic or augmentation.shear or size < side):
        return x
    strength = augmentation.primitive_strength
    one = tf.ones_like(numbers["shear"][:, 0])
    zero = tf.zeros_like(one)
    rows = [[one, zero, zero], [zero, one, zero]]  # (x, y) -> (x, y), from the centre.
    for names, sign in chosen:
        angle = names["rotate"] * sign * _ROTATION * strength
        slope_x, slope_y = (
            names[f"shear_{axis}"] * sign * _SLOPE * strength for axis in "xy"
        )
        shifts = (
            names[f"translate_{axis}"] * sign * _SHIFT * strength * side
            for axis in "xy"
        )
        cos, sin = tf.cos(angle), tf.sin(angle)
        rows = _after(rows, ((cos, slope_x - sin), (sin + slope_y, cos)), shifts)
    coin, slope = tf.unstack(numbers["shear"], axis=1)
    slope = _either_way(slope, augmentation.shear_strength)
    slope = tf.where(coin < augmentation.shear, slope, 0.0)
    rows = _after(rows, ((one, slope), (zero, one)), (zero, zero))
    corner = tf.floor(numbers["place"] * (side - size + 1))
    half = (side - 1) / 2.0
    pixel = tf.range(size, dtype=tf.float32) - half
    down = (pixel + corner[:, :1])[:, :, tf.newaxis]
    across = (pixel + corner[:, 1:])[:, tf.newaxis]
    at_x, at_y = (
        a[:, tf.newaxis, tf.newaxis] * across
        + b[:, tf.newaxis, tf.newaxis] * down
        + (c + half)[:, tf.newaxis, tf.newaxis]
        for a, b, c in rows
    )
    if augmentation.elastic:
        bent = _bends(numbers["elastic"], size, side, augmentation)
        at_x, at_y = at_x + bent[..., 0], at_y + bent[..., 1]
    return _sampled(x, at_x, at_y)


def _after(rows, matrix, shifts):
    """The map `rows`, and then that by `matrix` and `shifts`."""
    first, second = rows
    return [
        [a * p + b * q + (shift if i == 2 else 0.0) for i, (p, q) in enumerate(pairs)]
        for (a, b), shift, pairs in (
            (line, shift, list(zip(first, second)))
            for line, shift in zip(matrix, shifts)
        )
    ]


def _bends(u, size, side, augmentation):
    """Moves of every pixel `(n, size, size, 2)`: of few points, and between them."""
    points = tf.reshape(u[:, 1:], [-1, _POINTS, _POINTS, 2])
    strength = augmentation.elastic_strength * side
    points = _either_way(points, strength) * _wide(
        tf.cast(u[:, 0] < augmentation.elastic, tf.float32)
    )
    place = np.linspace(0.0, _POINTS - 1.0, size)
    weights = np.maximum(0.0, 1.0 - np.abs(place[:, np.newaxis] - np.arange(_POINTS)))
    weights = weights.astype(np.float32)
    return tf.einsum("pi,nijk,qj->npqk", weights, points, weights)


def _sampled(x, at_x, at_y):
    """`x` read bilinearly at these columns and rows; the nearest counts outside."""
    side, channels = x.shape[1], x.shape[3]
    flat = tf.reshape(x, [-1, side * side, channels])
    at_x, at_y = (tf.clip_by_value(at, 0.0, side - 1.0) for at in (at_x, at_y))
    left, top = tf.floor(at_x), tf.floor(at_y)
    share_x, share_y = (at_x - left)[..., tf.newaxis], (at_y - top)[..., tf.newaxis]
    # Places as floats, exact: int32 arithmetic of a GPU is left to the host.
    right, below = tf.minimum(left + 1, side - 1), tf.minimum(top + 1, side - 1)

    def row(number):
        a, b = (
            tf.gather(flat, tf.cast(number * side + column, tf.int32), batch_dims=1)
            for column in (left, right)
        )
        return a + share_x * (b - a)

    upper, lower = row(top), row(below)
    return upper + share_y * (lower - upper)


# Colours ------------------------------------------------------------------------


def _toned(x, names, sign, strength):
    """What primitives of colour make of patches: one of them, or nothing."""
    factor = 1.0 + sign * _FACTOR * strength
    low = tf.reduce_min(x, [1, 2], keepdims=True)
    spread = tf.reduce_max(x, [1, 2], keepdims=True) - low
    stretch = 1.0 / tf.where(spread > 0, spread, 1.0)
    low = tf.where(spread > 0, low, 0.0)
    gray = tf.reduce_sum(x * LUMA, -1, keepdims=True) if x.shape[-1] == 3 else x
    mean = tf.reduce_mean(gray, [1, 2], keepdims=True)
    factor, names = _wide(factor), {name: _wide(hot) for name, hot in names.items()}
    # The maps are x -> scale x + share gray + offset.
    scaled = names["brightness"] + names["contrast"] + names["color"]
    scale = 1.0 + scaled * (factor - 1.0) - 2.0 * names["invert"]
    scale += names["auto_contrast"] * (stretch - 1.0)
    offset = names["contrast"] * (1.0 - factor) * mean + names["invert"]
    offset -= names["auto_contrast"] * low * stretch
    share = names["color"] * (1.0 - factor)
    x = tf.clip_by_value(scale * x + share * gray + offset, 0.0, 1.0)
    lighter = x >= 1.0 - strength
    x = tf.where((names["solarize"] > 0) & lighter, 1.0 - x, x)
    step = 2.0 ** round(_BITS * strength)
    coarse = tf.floor(x * 255.0 / step) * step / 255.0
    x = tf.where(names["posterize"] > 0, coarse, x)
    return tf.where(names["sharpness"] > 0, _sharpened(x, factor), x)


def _sharpened(x, factor):
    """About `image_ops.smoothed`; the rim stays."""
    if x.shape[1] < 3:
        return x
    change = (factor - 1.0) * (x[:, 1:-1, 1:-1] - image_ops.smoothed(x))
    change = tf.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.clip_by_value(x + change, 0.0, 1.0)


def _curved(x, u, augmentation):
    if not augmentation.histogram:
        return x
    powers = tf.exp(_either_way(u[:, 1:], augmentation.histogram_strength))
    curved = x ** powers[:, tf.newaxis, tf.newaxis]
    return tf.where(_wide(u[:, 0] < augmentation.histogram), curved, x)


def _jittered(x, numbers, augmentation):
    """Colour jitter and grey, by the maps of `color`."""
    view = specs.View(
        size=x.shape[1],
        jitter=augmentation.jitter,
        brightness=augmentation.brightness,
        brightness_mode="add",
        contrast=augmentation.contrast,
        saturation=augmentation.saturation,
        hue=augmentation.hue,
        gray=augmentation.gray,
    )
    size, channels = x.shape[2:]
    if color.is_plain(view, channels):
        return x
    u = numbers["jitter"]

    def factor(place, strength):
        low = max(0.0, 1.0 - strength)
        return low + u[:, place] * (1.0 + strength - low)

    drawn = {
        "jitter": tf.cast(u[:, 0] < view.jitter, tf.float32),
        "brightness": _either_way(u[:, 1], view.brightness),
        "contrast": factor(2, view.contrast),
        "saturation": factor(3, view.saturation),
        "hue": _either_way(u[:, 4], view.hue),
        "order": u[:, 5:],
        "gray": tf.cast(numbers["gray"][:, 0] < view.gray, tf.float32),
    }
    drawn = {name: values[:, tf.newaxis] for name, values in drawn.items()}
    maps = color.groups(drawn, [view], channels, 1.0)
    planes = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, channels, size * size])
    planes = color.run_planes(planes, {name: part[:, 0] for name, part in maps.items()})
    planes = tf.reshape(planes, [-1, channels, size, size])
    return tf.transpose(tf.clip_by_value(planes, 0.0, 1.0), [0, 2, 3, 1])


def _dropped(x, u, augmentation):
    if x.shape[-1] != 3 or not augmentation.color_drop:
        return x
    kept = tf.one_hot(tf.cast(3.0 * u[:, 1], tf.int32), 3)[:, tf.newaxis, tf.newaxis]
    left = x * kept
    if augmentation.color_drop_fill == "copy":
        left = tf.reduce_sum(left, -1, keepdims=True) + tf.zeros_like(x)
    return tf.where(_wide(u[:, 0] < augmentation.color_drop), left, x)

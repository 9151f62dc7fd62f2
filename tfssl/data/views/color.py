"""Colour as affine maps of a pixel: the jitter of SimCLR and its successors.

Brightness, contrast, saturation, hue and grey each map the colour of a pixel by
`A x + o + K mean`, `mean` being the mean colour of the image. The papers' code
clips to [0, 1] after every step. A step that cannot leave [0, 1] (a factor of at
most 1) needs no clip, and steps without a clip between them are one map: `groups`
multiplies them together, so that the result is that of all steps with all clips
at about half the passes over the pixels.

Differences from the papers' code: hue turns the chroma plane of YIQ (luma stays)
and saturation blends with grey (luma), as torchvision does; `tf.image` and PIL shift
hue in HSV, and `tf.image` scales saturation in HSV. The size of the change is the
same and its direction is not: on colours drawn from the middle half of the cube, a
hue shift of 0.1 changes values by 0.068 on average, in HSV by 0.051, and the two
differ by 0.050; a saturation of 0.6 by 0.041, 0.051 and 0.051 (for values in [0, 1];
held by `tests/data/views/color_test.py`).
"""

import numpy as np
import tensorflow as tf

from tfssl.data.sources.decoding import LUMA

_GRAY = np.tile(LUMA, (3, 1))  # Column form: every channel becomes luma.
_EYE = np.eye(3, dtype=np.float32)
_RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
# Steps, in the order that a fixed order means.
STEPS = ("brightness", "contrast", "saturation", "hue")


def _times(factor, matrix):
    return _with_axes(factor, 2) * tf.constant(matrix, tf.float32)


def saturation_matrix(factor):
    """`(..., 3, 3)`: `factor * colour + (1 - factor) * grey`, for column vectors."""
    return _times(factor, np.eye(3)) + _times(1.0 - factor, _GRAY)


def hue_matrix(delta):
    """`(..., 3, 3)`: turns hue by `delta` of the full circle, for column vectors.

    A rotation of the chroma plane of YIQ: grey stays grey, and luma stays.
    """
    angle = -2.0 * np.pi * delta  # Red over yellow to green, as in HSV.
    yiq = _RGB_TO_YIQ.copy()
    yiq[1:] -= yiq[1:].mean(1, keepdims=True)  # Chroma of grey is exactly zero.
    rgb = np.linalg.inv(yiq)
    kept = np.outer(rgb[:, 0], yiq[0])
    both = np.outer(rgb[:, 1], yiq[1]) + np.outer(rgb[:, 2], yiq[2])
    turned = np.outer(rgb[:, 2], yiq[1]) - np.outer(rgb[:, 1], yiq[2])
    one = tf.ones_like(angle)
    return (
        _times(one, kept) + _times(tf.cos(angle), both) + _times(tf.sin(angle), turned)
    )


def _mixed(a, b):
    """Matrix product over the last two axes; tiny matrices, many of them."""
    return tf.reduce_sum(tf.expand_dims(a, -1) * tf.expand_dims(b, -3), -2)


def _moved(a, x):
    return tf.reduce_sum(a * tf.expand_dims(x, -2), -1)


def _steps(numbers, views, dim):
    """Per step: matrix, offset, share of the mean, and whether a clip must follow.

    `dim` is 3, or 1 for images of other than three channels, of which every
    channel is mapped alike and which have brightness and contrast only.
    """
    eye = np.eye(dim)
    zeros = tf.zeros_like(numbers["hue"])
    none, still = _times(zeros, eye), tf.zeros([*_sizes(zeros), dim])
    adds = np.array([v.brightness_mode == "add" for v in views])
    grays = np.array([v.contrast_mean == "gray" and dim == 3 for v in views])
    factor, contrast = numbers["brightness"], numbers["contrast"]
    shares = tf.where(
        grays[:, np.newaxis, np.newaxis],
        _times(1.0 - contrast, _GRAY if dim == 3 else eye),
        _times(1.0 - contrast, eye),
    )
    steps = [
        (
            _times(tf.where(adds, zeros + 1.0, factor), eye),
            tf.expand_dims(tf.where(adds, factor, zeros), -1) + still,
            none,
            adds | (factor > 1.0),
        ),
        (_times(contrast, eye), still, shares, contrast > 1.0),
    ]
    if dim == 3:
        saturation = numbers["saturation"]
        steps.append((saturation_matrix(saturation), still, none, saturation > 1.0))
        always = tf.ones_like(zeros) > 0
        steps.append((hue_matrix(numbers["hue"]), still, none, always))
    return [tf.stack(parts, 2) for parts in zip(*steps)]


def active(view, channels):
    """Positions in `STEPS` of the steps that a view takes."""
    if not view.jitter:
        return []
    names = STEPS if channels == 3 else STEPS[:2]
    return [i for i, name in enumerate(names) if getattr(view, name) > 0]


def count(views, channels):
    """How many maps with a clip the views can need at most; never none."""
    return max(1, *(len(active(view, channels)) for view in views))


def widths(views, channels):
    """How many numbers each tensor of `groups` holds for a view, by name."""
    dim, limit = 3 if channels == 3 else 1, count(views, channels)
    maps = limit + 1
    return {
        "runs": limit - 1,
        "moves": maps,
        "matrices": maps * dim * dim,
        "shares": maps * dim * dim,
        "offsets": maps * dim,
    }


def is_plain(view, channels):
    """Whether a view leaves colours as they are."""
    return not active(view, channels) and not (view.gray and channels == 3)


def overshoots(view):
    """Whether values come to the colour steps from beyond [0, 1]."""
    return view.resize == "bicubic" and not view.clip_resized


def folds_normalization(view, channels):
    """Whether a view's mean and std may go into its last map.

    They may if nothing after it minds: a blur of weights of sum 1 does not, unless
    what lies beyond the border is zero.
    """
    minds = view.solarize or (view.blur and view.blur_border == "zero")
    maps = channels in (1, 3) and not is_plain(view, channels)
    return view.mean is not None and not minds and maps


def groups(numbers, views, channels, white):
    """Multiplies the colour steps of every image together, up to needed clips.

    Args:
        numbers: dict from `views.split`, tensors `(batch, num_views, …)`.
        views: the recipe.
        channels: channels of the images.
        white: the pixel value that stands for 1.0; the first map divides by it.

    Returns:
        Dict of float32 `(batch, num_views, n)`, `n` from `widths`, for `count` maps
        that end in a clip to [0, 1] and a last one that does not, which holds grey
        (unless it came first) and, if `folds_normalization`, mean and deviation:
        `matrices`, `shares` (of the mean) and `offsets` one map after the other;
        `runs`, 1.0 for each map with a clip but the first that does anything; and
        `moves`, 1.0 for each map with an offset or a share.
    """
    dim = 3 if channels == 3 else 1
    limit = count(views, channels)
    shape = _sizes(numbers["hue"])
    eye = tf.constant(np.eye(dim), tf.float32)
    first = [view.gray_first for view in views]
    matrix = _grayed(tf.broadcast_to(eye, [*shape, dim, dim]), numbers, views, first)
    matrix = matrix / white
    offset = tf.zeros([*shape, dim])
    share = tf.zeros([*shape, dim, dim])
    maps = [  # Identities, until a group takes their place.
        tf.broadcast_to(eye, [*shape, limit, dim, dim]),
        tf.zeros([*shape, limit, dim]),
        tf.zeros([*shape, limit, dim, dim]),
    ]
    # Counted in floats: int32 arithmetic of a GPU is left to the host.
    used, places = tf.zeros(shape), np.float32(range(limit))
    ordered = _ordered_steps(numbers, views, channels, limit)
    for position in range(limit):
        a, o, k, clips = (part[:, :, position] for part in ordered)
        # Of x -> a (matrix x + offset + share m) + o + k m', m' the mean of that.
        share = _mixed(a, share) + _mixed(k, matrix + share)
        offset = _moved(a + k, offset) + o
        matrix = _mixed(a, matrix)
        if position == 0:
            clips |= np.array([overshoots(view) for view in views])
        if position == limit - 1:
            clips |= used == 0  # The first map with a clip is always there.
        here = tf.expand_dims(clips, -1) & (places == tf.expand_dims(used, -1))
        for slot, (into, made) in enumerate(zip(maps, (matrix, offset, share))):
            found = tf.expand_dims(made, 2)
            maps[slot] = tf.where(_like(here, into), found, into)
        used += tf.cast(clips, tf.float32)
        matrix = tf.where(_like(clips, matrix), eye, matrix)
        offset = tf.where(_like(clips, offset), 0.0, offset)
        share = tf.where(_like(clips, share), 0.0, share)
    last = _last(matrix, offset, share, numbers, views, channels)
    matrices, offsets, shares = (
        tf.concat([into, tf.expand_dims(made, 2)], 2) for into, made in zip(maps, last)
    )
    moves = tf.reduce_any(offsets != 0.0, -1) | tf.reduce_any(shares != 0.0, [-2, -1])
    runs = places[1:] < tf.expand_dims(used, -1)
    flat = lambda x: tf.reshape(x, [*shape, x.shape[2] * dim ** (x.shape.rank - 3)])  # noqa: E731
    return {
        "runs": tf.cast(runs, tf.float32),
        "moves": tf.cast(moves, tf.float32),
        "matrices": flat(matrices),
        "shares": flat(shares),
        "offsets": flat(offsets),
    }


def _sizes(x):
    """The first two sizes of a tensor, ints where they are known."""
    known = x.shape[:2]
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(known)]


def _like(mask, of):
    """A mask with as many more axes, of size 1, as `of` has."""
    return _with_axes(mask, of.shape.rank - mask.shape.rank)


def _with_axes(x, count):
    """`x` with axes of size 1 at its end; to index takes longer to trace."""
    for _ in range(count):
        x = tf.expand_dims(x, -1)
    return x


def _ordered_steps(numbers, views, channels, limit):
    """The steps of `_steps` in the order drawn; idle ones come last and do nothing."""
    dim = 3 if channels == 3 else 1
    parts = _steps(numbers, views, dim)
    kinds = parts[0].shape[2]
    takes = np.array([[i in active(v, channels) for i in range(kinds)] for v in views])
    order = numbers["order"][..., :kinds] + np.where(takes, 0.0, 2.0).astype("float32")
    order = tf.math.top_k(-order, limit).indices  # Of equal ones the first.
    runs = takes & (tf.expand_dims(numbers["jitter"], -1) > 0.5)
    identity = (np.eye(dim, dtype=np.float32), 0.0, 0.0, False)
    found = []
    for part, nothing in zip(parts, identity):
        part = tf.where(_like(runs, part), part, nothing)
        found.append(tf.gather(part, order, batch_dims=2))
    return found


def _grayed(matrix, numbers, views, here):
    """Grey after `matrix`, where its coin says so, in the views `here` (bools)."""
    takes = [bool(at and view.gray) for at, view in zip(here, views)]
    if matrix.shape[-2] != 3 or not any(takes):
        return matrix
    coin = (numbers["gray"] > 0.5) & takes
    gray = tf.where(_with_axes(coin, 2), _GRAY, _EYE)
    return _mixed(gray, matrix)


def _last(matrix, offset, share, numbers, views, channels):
    dim = matrix.shape[-1]
    last = [not view.gray_first for view in views]
    matrix, share = (_grayed(x, numbers, views, last) for x in (matrix, share))
    column = _grayed(tf.expand_dims(offset, -1), numbers, views, last)
    offset = tf.squeeze(column, -1)
    if dim == 3 or channels == 1:
        folds = [folds_normalization(view, channels) for view in views]
        mean = np.float32([v.mean if f else [0.0] * dim for v, f in zip(views, folds)])
        std = np.float32([v.std if f else [1.0] * dim for v, f in zip(views, folds)])
        matrix, share = (x / std[..., np.newaxis] for x in (matrix, share))
        offset = (offset - mean) / std
    return matrix, offset, share


def run(image, maps, runs, moves):
    """Applies the maps of `groups` to one image.

    Three channels are taken apart into planes by the first map's product and put
    together by the last one's: products with planes cost a third.

    Args:
        image: float32 `(size, size, channels)`, static.
        maps: dict of `groups`, of which `matrices`, `shares` and `offsets` are used:
            `(width,)`.
        runs: bool scalars, for each map with a clip but the first: whether to run it.
        moves: bool scalars, for each map: whether it has an offset or a share.

    Returns:
        float32 of the same shape.
    """
    size, channels = image.shape[1:]
    if channels != 3:
        maps = {name: tf.expand_dims(x, 0) for name, x in maps.items()}
        pixels = tf.reshape(image, [1, size * size, channels])
        return tf.reshape(run_batch(pixels, maps), image.shape)
    matrices, shares, offsets = _read(maps, 3, [])
    last = len(matrices) - 1

    def shift(number, mean):
        return offsets[number] + tf.matmul(shares[number], mean)

    def clipped(number, out, mean):
        add = lambda: out + shift(number, mean())  # noqa: E731
        return tf.clip_by_value(tf.cond(moves[number], add, lambda: out), 0.0, 1.0)

    def mapped(number, planes):
        out = tf.matmul(matrices[number], planes)
        return clipped(number, out, lambda: _mean(planes))

    pixels = tf.reshape(image, [size * size, 3])
    planes = tf.matmul(matrices[0], pixels, transpose_b=True)
    planes = clipped(0, planes, lambda: _mean_color(image))
    for number in range(1, last):
        planes = tf.cond(
            runs[number - 1],
            lambda n=number, x=planes: mapped(n, x),
            lambda x=planes: x,
        )
    out = tf.matmul(planes, matrices[last], transpose_a=True, transpose_b=True)
    rows = tf.reshape(out, [size, size * 3])  # Long inner loops.

    def shifted():
        color = shift(last, _mean(planes))[:, 0]
        return rows + tf.tile(color, [size])

    rows = tf.cond(moves[last], shifted, lambda: rows)
    return tf.reshape(rows, image.shape)


def run_batch(pixels, maps):
    """Applies all maps of `groups` to a batch, needed or not: few operations.

    Args:
        pixels: float32 `(batch, pixels, channels)`, all but `batch` static.
        maps: dict of `groups`, of which `matrices`, `shares` and `offsets` are used:
            `(batch, width)`.

    Returns:
        float32 of the shape of `pixels`.
    """
    if pixels.shape[-1] != 3:
        return _mapped(pixels, maps, 1, tf.multiply, -2)
    planes = tf.transpose(pixels, [0, 2, 1])
    return tf.transpose(_mapped(planes, maps, 3, tf.matmul, -1), [0, 2, 1])


def run_planes(planes, maps):
    """As `run_batch`, for `(batch, channels, pixels)`, to be compiled.

    Without products of matrices, which a GPU computes on numbers of ten bits.
    """
    if planes.shape[1] == 3:
        return _mapped(planes, maps, 3, _summed, -1)
    return _mapped(planes, maps, 1, tf.multiply, -1)


def _mapped(out, maps, dim, times, axis):
    """All maps, by the product `times`; pixels lie along `axis`."""
    matrices, shares, offsets = _read(maps, dim, [-1])
    last = len(matrices) - 1
    for number, (matrix, share, offset) in enumerate(zip(matrices, shares, offsets)):
        out = times(matrix, out) + (offset + times(share, _mean(out, axis)))
        if number < last:
            out = tf.clip_by_value(out, 0.0, 1.0)
    return out


def _summed(matrix, planes):
    """The product of `(batch, 3, 3)` and `(batch, 3, pixels)`, term by term."""
    red, green, blue = (
        matrix[:, :, i : i + 1] * planes[:, i : i + 1] for i in range(3)
    )
    return red + green + blue


def _read(maps, dim, lead):
    """Matrices and shares `(*lead, dim, dim)` and offsets `(*lead, dim, 1)`."""
    total = maps["offsets"].shape[-1] // dim
    return [
        tf.split(tf.reshape(maps[name], [*lead, total * dim, width]), total, axis=-2)
        for name, width in (("matrices", dim), ("shares", dim), ("offsets", 1))
    ]


def _mean(planes, axis=-1):
    return tf.reduce_mean(planes, axis, keepdims=True)


def _mean_color(image):
    """Mean colour `(3, 1)` of `(size, size, 3)`; a product, faster than a mean."""
    size = image.shape[0]
    ones = tf.fill([1, size], 1.0 / size**2)
    row = tf.matmul(ones, tf.reshape(image, [size, size * 3]))
    return tf.reduce_sum(tf.reshape(row, [size, 3]), 0)[:, tf.newaxis]

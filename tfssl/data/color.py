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
held by `tests/data/color_test.py`).
"""

import numpy as np
import tensorflow as tf

# ITU-R BT.601 luma, the grey of PIL, torchvision and `tf.image`.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GRAY = np.tile(LUMA, (3, 1))  # Column form: every channel becomes luma.
_EYE = np.eye(3, dtype=np.float32)
_RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
# Steps, in the order that a fixed order means.
STEPS = ("brightness", "contrast", "saturation", "hue")


def _times(factor, matrix):
    return factor[..., tf.newaxis, tf.newaxis] * tf.constant(matrix, tf.float32)


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
    return tf.reduce_sum(a[..., :, :, tf.newaxis] * b[..., tf.newaxis, :, :], -2)


def _moved(a, x):
    return tf.reduce_sum(a * x[..., tf.newaxis, :], -1)


def _steps(numbers, views, dim):
    """Per step: matrix, offset, share of the mean, and whether a clip must follow.

    `dim` is 3, or 1 for images of other than three channels, of which every
    channel is mapped alike and which have brightness and contrast only.
    """
    eye = np.eye(dim)
    zeros = tf.zeros_like(numbers["hue"])
    none, still = _times(zeros, eye), tf.zeros([*zeros.shape[:2], dim])
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
            tf.where(adds, factor, zeros)[..., tf.newaxis] + still,
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
    """How many groups with a clip the views can need at most."""
    steps = max(len(active(view, channels)) for view in views)
    return max(steps, int(any(view.resize == "bicubic" for view in views)))


def width(views, channels):
    """How many numbers `groups` gives for each view."""
    dim = 3 if channels == 3 else 1
    return 1 + (count(views, channels) + 1) * (2 * dim * dim + dim + 1)


def is_plain(view, channels):
    """Whether all that a view does to colours is to divide by white."""
    changes = active(view, channels) or (view.gray and channels == 3)
    clips = view.resize == "bicubic"
    return not changes and not clips and not folds_normalization(view, channels)


def folds_normalization(view, channels):
    """Whether a view's mean and std may go into its last map.

    They may if nothing after it minds: a blur of weights of sum 1 does not, unless
    what lies beyond the border is zero.
    """
    minds = view.solarize or (view.blur and view.blur_border == "zero")
    return view.mean is not None and not minds and channels in (1, 3)


def groups(numbers, views, channels, white):
    """Multiplies the colour steps of every image together, up to needed clips.

    Args:
        numbers: dict from `views.split`, tensors `(batch, num_views, …)`.
        views: the recipe.
        channels: channels of the images.
        white: the pixel value that stands for 1.0; the first map divides by it.

    Returns:
        float32 `(batch, num_views, width)`: how many groups to run, then the groups
        (each clipped), then the last map, which has no clip and holds grey (unless it
        came first) and, if `folds_normalization`, mean and deviation. `run` and
        `run_batch` read it.
    """
    dim = 3 if channels == 3 else 1
    limit = count(views, channels)
    shape = numbers["hue"].shape[:2]
    eye = tf.constant(np.eye(dim), tf.float32)
    first = [view.gray_first for view in views]
    matrix = _grayed(tf.broadcast_to(eye, [*shape, dim, dim]), numbers, views, first)
    matrix = matrix / white
    offset = tf.zeros([*shape, dim])
    share = tf.zeros([*shape, dim, dim])
    unused = tf.concat([tf.reshape(eye, [-1]), tf.zeros([dim + dim * dim + 1])], 0)
    slots = tf.broadcast_to(unused, [*shape, limit, len(unused)])
    used = tf.zeros(shape, tf.int32)
    if limit:
        ordered = _ordered_steps(numbers, views, channels, limit)
    for position in range(limit):
        a, o, k, clips = (part[:, :, position] for part in ordered)
        # Of x -> a (matrix x + offset + share m) + o + k m', m' the mean of that.
        share = _mixed(a, share) + _mixed(k, matrix + share)
        offset = _moved(a + k, offset) + o
        matrix = _mixed(a, matrix)
        if position == 0:
            overshoots = np.array([v.resize == "bicubic" for v in views])
            clips |= overshoots
        here = clips[..., tf.newaxis] & (tf.range(limit) == used[..., tf.newaxis])
        made = _flat(matrix, offset, share)
        slots = tf.where(here[..., tf.newaxis], made[:, :, tf.newaxis], slots)
        used += tf.cast(clips, tf.int32)
        done = clips[..., tf.newaxis, tf.newaxis]
        matrix = tf.where(done, eye, matrix)
        offset = tf.where(done[..., 0], 0.0, offset)
        share = tf.where(done, 0.0, share)
    last = _last(matrix, offset, share, numbers, views, channels)
    everything = tf.concat([slots, last[:, :, tf.newaxis]], 2)
    flat = tf.reshape(everything, [*shape, (limit + 1) * everything.shape[-1]])
    return tf.concat([tf.cast(used, tf.float32)[..., tf.newaxis], flat], -1)


def _ordered_steps(numbers, views, channels, limit):
    """The steps of `_steps` in the order drawn; idle ones come last and do nothing."""
    dim = 3 if channels == 3 else 1
    parts = _steps(numbers, views, dim)
    kinds = parts[0].shape[2]
    takes = np.array([[i in active(v, channels) for i in range(kinds)] for v in views])
    order = numbers["order"][..., :kinds] + np.where(takes, 0.0, 2.0).astype("float32")
    order = tf.argsort(order, stable=True)[..., :limit]
    runs = takes & (numbers["jitter"][..., tf.newaxis] > 0.5)
    identity = (np.eye(dim, dtype=np.float32), 0.0, 0.0, False)
    found = []
    for part, nothing in zip(parts, identity):
        mask = tf.reshape(runs, [*runs.shape, *([1] * (part.shape.rank - 3))])
        part = tf.where(mask, part, nothing)
        found.append(tf.gather(part, order, batch_dims=2))
    return found


def _grayed(matrix, numbers, views, here):
    """Grey after `matrix`, where its coin says so, in the views `here` (bools)."""
    takes = [bool(at and view.gray) for at, view in zip(here, views)]
    if matrix.shape[-2] != 3 or not any(takes):
        return matrix
    coin = (numbers["gray"] > 0.5) & takes
    gray = tf.where(coin[..., tf.newaxis, tf.newaxis], _GRAY, _EYE)
    return _mixed(gray, matrix)


def _last(matrix, offset, share, numbers, views, channels):
    dim = matrix.shape[-1]
    last = [not view.gray_first for view in views]
    matrix, share = (_grayed(x, numbers, views, last) for x in (matrix, share))
    offset = _grayed(offset[..., tf.newaxis], numbers, views, last)[..., 0]
    if dim == 3 or channels == 1:
        folds = [folds_normalization(view, channels) for view in views]
        mean = np.float32([v.mean if f else [0.0] * dim for v, f in zip(views, folds)])
        std = np.float32([v.std if f else [1.0] * dim for v, f in zip(views, folds)])
        matrix, share = (x / std[..., np.newaxis] for x in (matrix, share))
        offset = (offset - mean) / std
    return _flat(matrix, offset, share)


def _flat(matrix, offset, share):
    lead, dim = matrix.shape[:2], matrix.shape[-1]
    moves = tf.reduce_any(offset != 0.0, -1) | tf.reduce_any(share != 0.0, [-2, -1])
    return tf.concat(
        [
            tf.reshape(matrix, [*lead, dim * dim]),
            offset,
            tf.reshape(share, [*lead, dim * dim]),
            tf.cast(moves, tf.float32)[..., tf.newaxis],
        ],
        -1,
    )


def run(image, packed, limit):
    """Applies the groups of one image.

    Three channels are taken apart into planes by the first map's matrix product
    and put together by the last one's: products with planes cost a third.

    Args:
        image: float32 `(size, size, channels)`, `size` and `channels` static.
        packed: float32 `(width,)`, what `groups` gave for one view.
        limit: the `count` of the recipe.

    Returns:
        float32 of the same shape.
    """
    used, groups = packed[0], tf.unstack(tf.reshape(packed[1:], [limit + 1, -1]))
    if image.shape[-1] != 3:
        return _run_alike(image, used, groups)
    size = image.shape[0]
    pixels = tf.reshape(image, [size * size, 3])
    *clipped, last = [_read(group, 3) for group in groups]

    def direct():
        # The last map alone, on pixels as they are.
        matrix, offset, share, moves = last
        out = tf.matmul(pixels, matrix, transpose_b=True)
        mean = lambda: offset + tf.linalg.matvec(share, _mean(image))  # noqa: E731
        return tf.cond(moves, lambda: _shifted(out, mean(), size), lambda: out)

    if not clipped:
        return tf.reshape(direct(), image.shape)

    def by_planes():
        matrix, offset, share, moves = clipped[0]
        planes = tf.matmul(matrix, pixels, transpose_b=True)  # (3, size * size)
        planes = tf.cond(
            moves,
            lambda: planes + _column(offset, share, _mean(image)),
            lambda: planes,
        )
        planes = tf.clip_by_value(planes, 0.0, 1.0)
        for number, group in enumerate(clipped[1:], 1):
            planes = tf.cond(
                used > number,
                lambda p=planes, g=group: tf.clip_by_value(_mapped(p, *g), 0.0, 1.0),
                lambda p=planes: p,
            )
        matrix, offset, share, moves = last
        out = tf.matmul(planes, matrix, transpose_a=True, transpose_b=True)
        return tf.cond(
            moves,
            lambda: _shifted(out, _column(offset, share, _means(planes))[:, 0], size),
            lambda: out,
        )

    return tf.reshape(tf.cond(used > 0, by_planes, direct), image.shape)


def _run_alike(image, used, groups):
    """`run` for channels that are all mapped alike."""
    *clipped, last = [tf.unstack(group) for group in groups]

    def mapped(x, matrix, offset, share, moves):
        y = x * matrix
        return tf.cond(moves > 0.5, lambda: y + (offset + share * _mean(x)), lambda: y)

    for number, group in enumerate(clipped):
        image = tf.cond(
            used > number,
            lambda x=image, g=group: tf.clip_by_value(mapped(x, *g), 0.0, 1.0),
            lambda x=image: x,
        )
    return mapped(image, *last)


def _read(group, dim):
    matrix, offset, share, moves = tf.split(group, [dim * dim, dim, dim * dim, 1])
    square = [dim, dim]
    return tf.reshape(matrix, square), offset, tf.reshape(share, square), moves[0] > 0.5


def _column(offset, share, mean):
    return (offset + tf.linalg.matvec(share, mean))[:, tf.newaxis]


def _mapped(planes, matrix, offset, share, moves):
    out = tf.matmul(matrix, planes)
    return tf.cond(
        moves, lambda: out + _column(offset, share, _means(planes)), lambda: out
    )


def _means(planes):
    return tf.reduce_mean(planes, 1)


def _mean(image):
    """Mean colour of `(size, size, channels)`; a product, faster than a mean."""
    height, width, channels = image.shape
    ones = tf.fill([1, height], 1.0 / (height * width))
    rows = tf.matmul(ones, tf.reshape(image, [height, width * channels]))
    return tf.reduce_sum(tf.reshape(rows, [width, channels]), 0)


def _shifted(pixels, offset, size):
    """Adds a colour to `(size * size, 3)`, by rows: long inner loops."""
    rows = tf.reshape(pixels, [size, size * 3])
    return tf.reshape(rows + tf.tile(offset, [size]), [size * size, 3])


def run_batch(images, packed, limit):
    """`run` for a batch of planes: float32 `(batch, channels, pixels)`.

    Unused groups are the identity, and clipping [0, 1] twice changes nothing, so
    that all images of a batch take the same path.

    Args:
        images: float32 `(batch, channels, pixels)`.
        packed: float32 `(batch, width)`, from `groups` with `white=1`.
        limit: the `count` of the recipe.

    Returns:
        float32 `(batch, pixels, channels)`.
    """
    channels = images.shape[1]
    dim = 3 if channels == 3 else 1
    groups = tf.split(packed[:, 1:], limit + 1, axis=1)
    for number, group in enumerate(groups):
        sizes = [dim * dim, dim, dim * dim, 1]
        matrix, offset, share, _ = tf.split(group, sizes, axis=1)
        mean = tf.reduce_mean(images, 2)
        if dim == 3:
            matrix, share = (tf.reshape(m, [-1, 3, 3]) for m in (matrix, share))
            moved = offset + tf.linalg.matvec(share, mean)
        else:
            moved = offset + share * mean
        last = number == limit
        if last and dim == 3:
            out = tf.matmul(images, matrix, transpose_a=True, transpose_b=True)
            return out + moved[:, tf.newaxis]
        if dim == 3:
            images = tf.matmul(matrix, images) + moved[:, :, tf.newaxis]
        else:
            images = images * matrix[:, :, tf.newaxis] + moved[:, :, tf.newaxis]
        if not last:
            images = tf.clip_by_value(images, 0.0, 1.0)
    return tf.transpose(images, [0, 2, 1])

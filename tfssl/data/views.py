"""Views of an image: drawing the numbers of a recipe, and applying them.

Randomness and work are apart. `sample` draws, in one stateless call, every number
that the views of a whole batch need; `apply` turns numbers and an image into views
and holds no random operation. The same numbers give the same view in training, in
tests against NumPy and in the contact sheet of `show_views`.

Images enter as uint8, uint16 or float32 and views leave as float32 in [0, 1] (or
normalised, where the recipe says so). The order of work is: crop, flip, resize,
rotate/shear/move, colour jitter, grey (before the jitter with `gray_first`), blur,
solarise, normalise.
"""

import numpy as np
import tensorflow as tf

from tfssl.data import color, image_ops
from tfssl.data.specs import Recipe, View, check

__all__ = ["Recipe", "View", "apply", "check", "sample", "split"]

# Drawing ----------------------------------------------------------------------

# The numbers of a view that follow its `2 * tries` crop numbers, in order.
_FIELDS = {
    "place": 2,  # Of the crop, from top and left, in [0, 1).
    "flip": 1,  # Coins are 0 or 1.
    "rotation": 1,
    "shear": 1,
    "translation": 2,
    "jitter": 1,
    "brightness": 1,  # Factor or summand.
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "order": 4,  # Sort keys of the steps brightness, contrast, saturation, hue.
    "gray": 1,
    "sigma": 1,  # Of the blur; 0 for none.
    "solarize": 1,
}


def _tries(recipe):
    return max(view.crop_tries for view in recipe)


def split(numbers, recipe):
    """Names the numbers of `sample`.

    Args:
        numbers: `(..., numbers)` tensor or array from `sample`.
        recipe: the recipe they were drawn for.

    Returns:
        Dict: `areas` (of a view cropped by height, see `image_ops.crop_boxes`, the
        places of the heights) and `aspects` `(..., tries)`, `place` and `translation`
        `(..., 2)`, `order` `(..., 4)`, and `flip, rotation, shear, jitter,
        brightness, contrast, saturation, hue, gray, sigma, solarize` `(...)`.
    """
    tries = _tries(recipe)
    sizes = {"areas": tries, "aspects": tries, **_FIELDS}
    parts = tf.split(numbers, list(sizes.values()), axis=-1)
    return {
        name: part if size > 1 or name in ("areas", "aspects") else part[..., 0]
        for (name, size), part in zip(sizes.items(), parts)
    }


def sample(recipe, *, batch, channels, seed, step):
    """Draws the numbers of all views of a batch; pure and stateless.

    Args:
        recipe: sequence of `View`.
        batch: number of images, the GLOBAL batch: each worker draws the whole and
            keeps its rows, so that the views do not depend on the workers.
        channels: channels of the images. Does not change the draw.
        seed: int scalar, the run's seed.
        step: int scalar, number of the batch in the stream; every step's numbers
            are independent of all others'.

    Returns:
        float32 `(batch, num_views, numbers)`; `split` names the numbers.
    """
    del channels  # All fields are drawn; colour is left out by `pack`.
    check(recipe)
    count, tries = len(recipe), _tries(recipe)
    width = 2 * tries + sum(_FIELDS.values()) + 1  # One more: the blur's coin.
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    drawn = tf.random.stateless_uniform([batch, count, width], key, alg="philox")
    coin_of_blur = drawn[..., -1]
    u = split(drawn[..., :-1], recipe)

    def per_view(get):
        return np.array([get(view) for view in recipe], np.float32)

    def between(x, low, high):
        extra = (1,) * (len(x.shape) - 2)
        low, high = per_view(low), per_view(high)
        low = low.reshape(count, *extra)
        return low + x * (high.reshape(count, *extra) - low)

    def coin(x, name):
        return tf.cast(x < per_view(lambda v: getattr(v, name)), tf.float32)

    def either_way(x, name):
        strength = lambda v: getattr(v, name)  # noqa: E731
        return between(x, lambda v: -strength(v), strength)

    def factor(x, name):
        strength = lambda v: getattr(v, name)  # noqa: E731
        low = lambda v: max(0.0, 1.0 - strength(v))  # noqa: E731
        return between(x, low, lambda v: 1.0 + strength(v))

    logarithmic = per_view(lambda v: v.aspect_scale == "log").reshape(-1, 1) > 0
    aspects = tf.where(
        logarithmic,
        tf.exp(
            between(
                u["aspects"],
                lambda v: np.log(v.aspect[0]),
                lambda v: np.log(v.aspect[1]),
            )
        ),
        between(u["aspects"], lambda v: v.aspect[0], lambda v: v.aspect[1]),
    )
    adds = per_view(lambda v: v.brightness_mode == "add") > 0
    fixed = tf.constant([0.0, 0.25, 0.5, 0.75])
    in_random_order = per_view(lambda v: v.random_order).reshape(-1, 1) > 0
    sigma = between(u["sigma"], lambda v: v.blur_sigma[0], lambda v: v.blur_sigma[1])
    areas = lambda v: (0.0, 1.0) if v.crop_rule == "height" else v.area  # noqa: E731
    values = {
        "areas": between(u["areas"], lambda v: areas(v)[0], lambda v: areas(v)[1]),
        "aspects": aspects,
        "place": u["place"],
        "flip": coin(u["flip"], "flip"),
        "rotation": either_way(u["rotation"], "rotation"),
        "shear": either_way(u["shear"], "shear"),
        "translation": either_way(u["translation"], "translation"),
        "jitter": coin(u["jitter"], "jitter"),
        "brightness": tf.where(
            adds,
            either_way(u["brightness"], "brightness"),
            factor(u["brightness"], "brightness"),
        ),
        "contrast": factor(u["contrast"], "contrast"),
        "saturation": factor(u["saturation"], "saturation"),
        "hue": either_way(u["hue"], "hue"),
        "order": tf.where(in_random_order, u["order"], fixed),
        "gray": coin(u["gray"], "gray"),
        "sigma": sigma * coin(coin_of_blur, "blur"),
        "solarize": coin(u["solarize"], "solarize"),
    }
    rank3 = [x if len(x.shape) == 3 else x[..., tf.newaxis] for x in values.values()]
    return tf.concat(rank3, -1)


# Applying ---------------------------------------------------------------------


def skipped_steps(recipe, channels):
    """Names of the colour steps of `recipe` that `channels` channels rule out."""
    if channels == 3:
        return ()
    names = []
    for view in recipe:
        if view.jitter:
            names += [n for n in ("saturation", "hue") if getattr(view, n) > 0]
        names += ["gray"] if view.gray else []
    return tuple(dict.fromkeys(names))


def has_affine(view):
    """Whether a view is rotated, sheared or moved."""
    return max(view.rotation, view.shear, view.translation) > 0


# Fields that are coins, 0 or 1; in a row of `pack` they follow the crop's numbers.
_COINS = ("flip", "blurred", "solarize", "runs", "moves")


def _widths(recipe, channels):
    """Width of each packed field, as `pack` lays them out."""
    tries = _tries(recipe)
    radii = [image_ops.blur_radius(v.blur_sigma[1], v.size) for v in recipe if v.blur]
    maps = color.widths(recipe, channels)
    return {
        "areas": tries,
        "aspects": tries,
        "place": 2,
        "flip": 1,
        "blurred": 1,
        "solarize": 1,
        "runs": maps["runs"],
        "moves": maps["moves"],
        "affine": 4 if any(map(has_affine, recipe)) else 0,
        "matrices": maps["matrices"],
        "shares": maps["shares"],
        "offsets": maps["offsets"],
        "taps": 2 * max(radii) + 1 if radii else 0,
    }


def pack(numbers, recipe, channels, white=1.0):
    """Turns a batch of numbers into what each image needs, in one tensor.

    Matrices and kernels are made for the whole batch at once here, which costs
    far less than per image.

    Args:
        numbers: float32 `(batch, views, numbers)` from `sample`.
        recipe: the recipe they were drawn for.
        channels: channels of the images.
        white: the pixel value that stands for 1.0.

    Returns:
        float32 `(batch, views, packed)`; `apply_packed` reads a row of it.
    """
    u = split(numbers, recipe)
    widths = _widths(recipe, channels)
    column = lambda x: x[..., tf.newaxis]  # noqa: E731
    made = {
        **color.groups(u, recipe, channels, white),
        "flip": column(u["flip"]),
        "blurred": column(tf.cast(u["sigma"] > 0, tf.float32)),
        "solarize": column(u["solarize"]),
        "areas": u["areas"],
        "aspects": u["aspects"],
        "place": u["place"],
        "affine": tf.concat(
            [column(u["rotation"]), column(u["shear"]), u["translation"]], -1
        ),
        "taps": image_ops.gaussian_taps(u["sigma"], widths["taps"] // 2),
    }
    return tf.concat([made[name] for name, width in widths.items() if width], -1)


def fields(packed, recipe, channels):
    """Names what `pack` gave.

    Args:
        packed: float32 `(..., packed)`.
        recipe: the recipe.
        channels: channels of the images.

    Returns:
        Dict of float32 `(..., width)`: `areas`, `aspects` and `place` of the crop;
        the coins `flip`, `blurred`, `solarize`; `runs`, `moves`, `matrices`, `shares`
        and `offsets` of `color.groups`; `affine` (rotation, shear, right, down) and
        `taps` of the blur, of width 0 if no view needs them.
    """
    widths = _widths(recipe, channels)
    return dict(zip(widths, tf.split(packed, list(widths.values()), axis=-1)))


def coins_of(packed, recipe, channels):
    """For each view of one image, bools: a scalar, or for `runs` and `moves` lists."""
    widths = _widths(recipe, channels)
    count, first = sum(widths[name] for name in _COINS), 2 * _tries(recipe) + 2
    flat = tf.reshape(packed[:, first : first + count] > 0.5, [-1])
    drawn = iter(tf.unstack(flat, len(recipe) * count))
    every = []
    for _ in recipe:
        coins = {name: [next(drawn) for _ in range(widths[name])] for name in _COINS}
        for name in ("flip", "blurred", "solarize"):
            (coins[name],) = coins[name]
        every.append(coins)
    return every


def boxes(packed, recipe, height, width):
    """The crop of every view inside an image of `height` x `width` pixels.

    Args:
        packed: float32 `(..., views, packed)` from `pack`.
        recipe: the recipe.
        height: int32 scalar.
        width: int32 scalar.

    Returns:
        int32 `(..., views, 4)`: `[top, left, height, width]`.
    """
    tries = _tries(recipe)
    areas, aspects, place, _ = tf.split(packed, [tries, tries, 2, -1], -1)
    groups = {}
    for position, view in enumerate(recipe):
        by_height = view.area if view.crop_rule == "height" else None
        rule = (view.crop_fallback, by_height, view.crop_tries)
        groups.setdefault(rule, []).append(position)
    if len(groups) == 1:
        ((*rule, _),) = groups
        return image_ops.crop_boxes(areas, aspects, place, height, width, *rule)
    found = [None] * len(recipe)
    for (*rule, used), members in groups.items():
        pick = lambda x, m=members: tf.gather(x, m, axis=-2)  # noqa: E731
        part = image_ops.crop_boxes(
            pick(areas)[..., :used],
            pick(aspects)[..., :used],
            pick(place),
            height,
            width,
            *rule,
        )
        for position, box in zip(members, tf.unstack(part, axis=-2)):
            found[position] = box
    return tf.stack(found, -2)


def render(named, coins, out, view, white):
    """The last part of `apply_packed`: a view from its resized image on.

    Args:
        named: the view's dict of `fields`.
        coins: the view's dict of `coins_of`.
        out: float32 `(size, size, channels)`, values as in the original image; rows
            and columns have changed places if `comes_turned`.
        view: the `View`.
        white: the pixel value that stands for 1.0.
    """
    size, channels = view.size, out.shape[-1]
    if view.clip_resized:
        out = tf.clip_by_value(out, 0.0, white)
    if has_affine(view):
        affine = named["affine"][tf.newaxis]
        out = image_ops.affine(
            out[tf.newaxis], affine[:, 0], affine[:, 1], affine[:, 2:4]
        )[0]
    if color.is_plain(view, channels):
        out = plain(out, view, white)
    else:
        out = color.run(out, named, coins["runs"], coins["moves"])
    if view.blur:
        sharp, taps = out, taps_of(view, named["taps"])
        turned = comes_turned(view)
        out = tf.cond(
            coins["blurred"],
            lambda: image_ops.blur(sharp, taps, view.blur_border, turned),
            lambda: image_ops.turn(sharp) if turned else sharp,
        )
    if view.solarize:
        before = out
        out = tf.cond(
            coins["solarize"], lambda: solarized(before, view), lambda: before
        )
    if view.mean is not None and not color.folds_normalization(view, channels):
        out = normalized(out, view)
    out.set_shape([size, size, channels])
    return out


def plain(images, view, white):
    """To [0, 1], for a view that leaves colours as they are; cubics overshoot."""
    images = images if white == 1 else images * (1.0 / white)
    return tf.clip_by_value(images, 0.0, 1.0) if color.overshoots(view) else images


def taps_of(view, taps):
    """The taps that this view's blur needs, out of the recipe's widest."""
    radius = image_ops.blur_radius(view.blur_sigma[1], view.size)
    middle = (taps.shape[-1] - 1) // 2
    if radius == middle:
        return taps
    return taps[..., middle - radius : middle + radius + 1]


def solarized(image, view, top=1.0):
    """`top - image` at or above the view's threshold; `top` 1, or infinity for never.

    At a threshold of a half that is the smaller of the two: a fifth of the time.
    """
    if view.solarize_threshold == 0.5:
        return tf.minimum(image, top - image)
    inverted = tf.minimum(top, 1.0) - image
    return tf.where((image < view.solarize_threshold) | (top > 1.0), image, inverted)


def normalized(image, view):
    """`(image - mean) / std` of a view, for `(…, size, size, channels)`.

    By rows: a tenth of the time that inner loops over the channels take.
    """
    size, channels = image.shape[-2:]
    rows = tf.reshape(image, [-1, size * channels])
    mean, std = (
        np.tile(np.broadcast_to(np.float32(x), [channels]), size)
        for x in (view.mean, view.std)
    )
    return tf.reshape((rows - mean) / std, tf.shape(image))


def cropped(coins, image, recipe, crops):
    """The first part of `apply_packed`: every view cropped and flipped.

    Args:
        coins: list of `coins_of`.
        image: `(height, width, channels)`.
        recipe: the recipe.
        crops: int32 `(views, 4)`.

    Returns:
        Tuple of `(height, width, channels)`, values and dtype as in `image`.
    """
    channels, count = image.shape[-1], len(recipe)
    # In all channels; for all views at once, which takes far fewer operations.
    begins = tf.unstack(tf.pad(crops[:, :2], [[0, 0], [0, 1]]), count)
    sizes = tf.pad(crops[:, 2:], [[0, 0], [0, 1]], constant_values=channels)
    made = []
    for view, coin, begin, size in zip(recipe, coins, begins, tf.unstack(sizes, count)):
        crop = tf.slice(image, begin, size)
        if view.flip:
            crop = tf.cond(
                coin["flip"],
                lambda x=crop: tf.reverse(x, [1]),
                lambda x=crop: x,
            )
        crop.set_shape([None, None, channels])
        made.append(crop)
    return tuple(made)


def comes_turned(view):
    """Whether rows and columns may change places from the resize to the blur."""
    return view.antialias and view.blur > 0 and not has_affine(view)


def resized(coins, image, recipe, crops, turned=False):
    """The first two parts of `apply_packed`: cropped, flipped and resized.

    With `turned`, rows and columns of views of which `comes_turned` holds have
    changed places.

    Returns:
        Tuple of float32 `(size, size, channels)`, values as in `image`.
    """
    return tuple(
        image_ops.resize(
            crop, view.size, view.resize, view.antialias, turned and comes_turned(view)
        )
        for view, crop in zip(recipe, cropped(coins, image, recipe, crops))
    )


def apply_packed(packed, image, recipe, crops=None):
    """Views of one image from one row `(views, packed)` of `pack`.

    Args:
        packed: float32 `(views, packed)`.
        image: `(height, width, channels)`, see `apply`.
        recipe: the recipe.
        crops: int32 `(views, 4)` boxes inside `image`, where it is only a window
            of the original; None computes them.

    Returns:
        Tuple of float32 `(size, size, channels)`.
    """
    channels, white = image.shape[-1], white_of(image.dtype)
    if crops is None:
        shape = tf.shape(image)
        crops = boxes(packed, recipe, shape[0], shape[1])
    coins = coins_of(packed, recipe, channels)
    images = resized(coins, image, recipe, crops, turned=True)
    rows = tf.unstack(packed, len(recipe))
    return tuple(
        render(fields(row, recipe, channels), coin, out, view, white)
        for row, coin, out, view in zip(rows, coins, images, recipe)
    )


def apply(numbers, image, recipe):
    """Makes the views of one image; deterministic, no random operation.

    Args:
        numbers: float32 `(num_views, numbers)`, a row of what `sample` drew for
            this recipe.
        image: `(height, width, channels)`, uint8, uint16 (0 to 65,535) or float32
            in [0, 1]; height and width of any size above 0, channels static.
        recipe: sequence of `View`.

    Returns:
        Tuple of float32 `(size, size, channels)`, one per view: values in [0, 1],
        or normalised if the view has a mean. With other than three channels the
        steps that need RGB (saturation, hue, grey) are left out.

    Raises:
        ValueError: for another dtype or rank, or an image known to be empty.
    """
    check(recipe)
    image = tf.convert_to_tensor(image)
    check_image(image)
    white = white_of(image.dtype)
    packed = pack(numbers[tf.newaxis], recipe, image.shape[-1], white)[0]
    return apply_packed(packed, image, recipe)


def white_of(dtype):
    """The pixel value that stands for 1.0: 255, 65535 or 1."""
    return float(dtype.max) if dtype.is_integer else 1.0


def check_image(image):
    """Raises `ValueError` unless `image` is of a shape and dtype `apply` takes."""
    if image.shape.rank != 3 or image.shape[-1] is None:
        raise ValueError(
            f"An image of shape {image.shape} was given; expected (height, width, "
            "channels) with a known number of channels."
        )
    if 0 in image.shape:
        raise ValueError(f"An image of shape {image.shape} has no pixels.")
    if image.dtype not in (tf.uint8, tf.uint16, tf.float32):
        raise ValueError(
            f"An image of dtype {image.dtype.name} was given; expected uint8, uint16 "
            "or float32 in [0, 1]. Convert it first."
        )

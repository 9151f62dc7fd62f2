"""Applying a recipe's numbers to an image: no random operation here.

Images enter as uint8, uint16 or float32 and views leave as float32 in [0, 1] (or
normalised, where the recipe says so). The order of work is: crop, flip, resize,
rotate/shear/move, RandAugment, colour jitter, grey (before the jitter with
`gray_first`), blur, solarise, normalise, erase.
"""

import numpy as np
import tensorflow as tf

from tfssl.data.views import alike, color, erasing, image_ops, rand_augment, tiles
from tfssl.data.views.packing import boxes, coins_of, fields, has_affine, pack
from tfssl.data.views.specs import Tile, check, for_channels


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
    out = placed(named, out, view, white)
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
    if view.erase:
        out = erasing.run(out, named["erase"], view)
    out.set_shape([size, size, channels])
    return out


def placed(named, out, view, white):
    """What of `render` comes before colour: a clip, the affine map, RandAugment."""
    if view.clip_resized:
        out = tf.clip_by_value(out, 0.0, white)
    if has_affine(view):
        affine = named["affine"][tf.newaxis]
        out = image_ops.affine(
            out[tf.newaxis], affine[:, 0], affine[:, 1], affine[:, 2:4]
        )[0]
    if view.rand_augment:
        out = white * rand_augment.run(out / white, named["rand_augment"], view)
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
    taps = taps[..., middle - radius : middle + radius + 1]
    return taps / tf.reduce_sum(taps, axis=-1, keepdims=True)


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

    The tiles of a view are still one picture, in the place of the first: that crop as
    it is, and None for the others.

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
        if not tiles.is_first(view):
            made.append(None)
            continue
        crop = tf.slice(image, begin, size)
        if view.flip and not isinstance(view, Tile):
            crop = tf.cond(
                coin["flip"],
                lambda x=crop: tf.reverse(x, [1]),
                lambda x=crop: x,
            )
        crop.set_shape([None, None, channels])
        made.append(crop)
    return tuple(made)


def may_turn(view):
    """Whether rows and columns may change places in the resize, which saves work."""
    return view.antialias and not (has_affine(view) or view.rand_augment)


def comes_turned(view):
    """Whether they do from the resize to the blur."""
    return view.blur > 0 and may_turn(view)


def resized(coins, packed, image, recipe, crops, turned=None):
    """The first two parts of `apply_packed`: cropped, flipped, resized, cut to tiles.

    Args:
        coins: list of `coins_of`.
        packed: float32 `(views, packed)`, the row of `pack` that they are of.
        image: as for `cropped`.
        recipe: the same.
        crops: the same.
        turned: function of a view, whether its rows and columns are to have changed
            places; None for no view.

    Returns:
        Tuple of float32 `(size, size, channels)`, values as in `image`.
    """
    channels, made, whole = image.shape[-1], [], None
    found = cropped(coins, image, recipe, crops)
    for number, (view, coin, crop) in enumerate(zip(recipe, coins, found)):
        turn, rule = bool(turned and turned(view)), (view.resize, view.antialias)
        if not isinstance(view, Tile):
            made.append(image_ops.resize(crop, view.size, *rule, turn))
            continue
        if crop is not None:
            whole = image_ops.resize(crop, view.whole, *rule, False)[tf.newaxis]
        place = fields(packed[number], recipe, channels)["cell"][tf.newaxis]
        tile = tiles.cut(whole, place, coin["flip"][tf.newaxis], view)[0]
        made.append(image_ops.turn(tile) if turn else tile)
    return tuple(made)


def apply_packed(packed, image, recipe, crops=None):
    """Views of one image from one row `(views, packed)` of `pack`.

    Args:
        packed: float32 `(views, packed)`.
        image: `(height, width, channels)`, see `apply`.
        recipe: the recipe, flat.
        crops: int32 `(views, 4)` boxes inside `image`, where it is only a window
            of the original; None computes them.

    Returns:
        Tuple of float32 `(size, size, channels)`.
    """
    channels, white = image.shape[-1], white_of(image.dtype)
    recipe = for_channels(recipe, channels)
    if crops is None:
        shape = tf.shape(image)
        crops = boxes(packed, recipe, shape[0], shape[1])
    coins = coins_of(packed, recipe, channels)
    images = resized(coins, packed, image, recipe, crops, comes_turned)

    def rendered(view, row, coin, out):
        return render(fields(row, recipe, channels), coin, out, view, white)

    rows = tf.unstack(packed, len(recipe))
    every = map(alike.traced_once(rendered, recipe), recipe, rows, coins, images)
    return tuple(every)


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
        or normalised if the view has a mean; `(tiles, size, size, channels)` of a view
        in tiles. With other than three channels the
        steps that need RGB (saturation, hue, grey) are left out.

    Raises:
        ValueError: for another dtype or rank, an image known to be empty, or a mean
            that does not fit its channels.
    """
    check(recipe)
    image = tf.convert_to_tensor(image)
    check_image(image)
    white = white_of(image.dtype)
    packed = pack(numbers[tf.newaxis], recipe, image.shape[-1], white)[0]
    return tiles.stacked(apply_packed(packed, image, tiles.flat(recipe)), recipe)


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

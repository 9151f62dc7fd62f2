"""Views made in two places: begun on the host, finished on the device.

The host reads, decodes, crops, flips and resizes, does what needs coordinates (affine
maps, RandAugment), and rounds to whole numbers, as the image had. The device does
colour, blur, solarising, normalising and erasing, with the same numbers of `sample`,
which travel with the batch. Nothing is drawn there. Only the rounding sets these views
apart from those that the host makes alone, see docs/views.md; float32 images are not
rounded.
"""

import functools

import numpy as np
import tensorflow as tf

from tfssl.data.views import (
    applying,
    batched,
    color,
    erasing,
    image_ops,
    packing,
    recipes,
    tiles,
)

PLACES = ("host", "device")  # Where views are finished.
# The entry of a batch that its unfinished views are finished by.
NUMBERS = "numbers"


def begin(packed, image, recipe, crops):
    """The host's part for one image.

    Args:
        packed: float32 `(views, packed)`, a row of `pack` with `white=1`.
        image: as for `applying.apply_packed`.
        recipe: the recipe, flat.
        crops: the same.

    Returns:
        `(numbers, views)`: float32 `(views, n)`, what `finish` needs of `packed`, and a
        tuple of `(size, size, channels)` in the dtype of `image`. Of views of which
        `applying.may_turn` holds, rows and columns have changed places.
    """
    channels, white = image.shape[-1], applying.white_of(image.dtype)
    coins = packing.coins_of(packed, recipe, channels)
    resized = applying.resized(coins, packed, image, recipe, crops, applying.may_turn)
    made = []
    for number, (view, out) in enumerate(zip(recipe, resized)):
        named = packing.fields(packed[number], recipe, channels)
        out = applying.placed(named, out, view, white)
        made.append(_stored(out, view, image.dtype))
    return packing.tones(packed, recipe, channels), tuple(made)


def begin_batch(packed, resized, recipe, dtype):
    """The host's part for a batch, from `batched.geometry` on.

    Args:
        packed: float32 `(batch, views, packed)` from `pack` with `white=1`.
        resized: list of float32 `(batch, size, size, channels)`, one per view.
        recipe: the recipe.
        dtype: of the images.

    Returns:
        As `begin`, with a batch dimension.
    """
    channels, white = resized[0].shape[-1], applying.white_of(dtype)
    made = []
    for number, (view, images) in enumerate(zip(recipe, resized)):
        named = packing.fields(packed[:, number], recipe, channels)
        images = batched.placed(images, named, view, white)
        images = _stored(white * images, view, dtype)
        made.append(image_ops.turn(images) if applying.may_turn(view) else images)
    return packing.tones(packed, recipe, channels), tuple(made)


def _stored(images, view, dtype):
    """Rounded to whole numbers, of which the nearest stands for what is beyond them."""
    if not dtype.is_integer:
        return images
    images = images + 0.5
    if color.overshoots(view):
        images = tf.clip_by_value(images, 0.0, dtype.max + 0.5)
    return tf.cast(images, dtype)


def finish(batch, recipe):
    """The device's part: a pure function that XLA compiles.

    Args:
        batch: dict of `multiview(augment_on="device")`, or of a replica's part of it. A
            batch whose views are finished is returned as it is.
        recipe: the recipe that it was made by.

    Returns:
        The batch as the host alone makes it: float32 views, and no `"numbers"`.

    Raises:
        ValueError: if the batch is not of this recipe.
    """
    if NUMBERS not in batch:
        return batch
    batch = dict(batch)
    numbers, begun = batch.pop(NUMBERS), batch["views"]
    channels = begun["view_0"].shape[-1]
    recipe = recipes.for_channels(recipe, channels)
    flat = tiles.flat(recipe)
    _check(numbers, begun, recipe, channels)
    views = tiles.unstacked(
        [begun[f"view_{i}"] for i in range(len(recipe))], recipe, axis=1
    )
    made = [
        _finished(images, numbers[:, i], flat, view)
        for i, (view, images) in enumerate(zip(flat, views))
    ]
    batch["views"] = {
        f"view_{i}": view for i, view in enumerate(tiles.stacked(made, recipe, axis=1))
    }
    return batch


def finishing(recipe):
    """`finish` for batches of a recipe, as `Method.compile` takes it."""
    return functools.partial(finish, recipe=recipe)


def _check(numbers, begun, recipe, channels):
    count = packing.count_of_tones(recipe, channels)
    here = [view.shape[-2] for view in begun.values()]
    wanted = [view.size for view in recipe]
    rows = len(tiles.flat(recipe))
    if numbers.shape[1:] != (rows, count) or here != wanted:
        raise ValueError(
            f"A batch of views of {here} pixels with {numbers.shape[-1]} numbers each "
            f"received for a recipe of {wanted} pixels with {count}; finish it by the "
            "recipe that it was made by."
        )


def _finished(images, numbers, recipe, view):
    """One view of the batch, in planes `(batch, channels, size, size)`."""
    size, channels = view.size, images.shape[-1]
    named = packing.fields(numbers, recipe, channels, packing.TONES)
    images = tf.cast(images, tf.float32) * (1.0 / applying.white_of(images.dtype))
    turned = applying.may_turn(view)
    planes = tf.transpose(images, [0, 3, 2, 1] if turned else [0, 3, 1, 2])
    if color.is_plain(view, channels):
        planes = applying.plain(planes, view, 1.0)
    else:
        planes = tf.reshape(planes, [-1, channels, size * size])
        planes = color.run_planes(planes, named)
        planes = tf.reshape(planes, [-1, channels, size, size])
    if view.blur:
        taps = applying.taps_of(view, named["taps"])
        planes = image_ops.blur_planes(planes, taps, view.blur_border)
    if view.solarize:
        planes = applying.solarized(planes, view, batched.inverted_top(named))
    if view.mean is not None and not color.folds_normalization(view, channels):
        mean, std = (np.float32(x).reshape([-1, 1, 1]) for x in (view.mean, view.std))
        planes = (planes - mean) / std
    images = tf.transpose(planes, [0, 2, 3, 1])
    return erasing.run_batch(images, named["erase"], view) if view.erase else images

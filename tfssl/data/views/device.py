"""Views made in two places: begun on the host, finished on the device.

The host reads, decodes, crops, flips and resizes, does what needs coordinates (affine
maps, RandAugment), and rounds to whole numbers, as the image had. The device does
colour, blur, solarising, normalising and erasing, with the same numbers of `sample`,
which travel with the batch. Nothing is drawn there. Only the rounding sets these views
apart from those that the host makes alone, see docs/views.md; float32 images are not
rounded.

Small images of one size may lie on the device. Then the host sends which they are and
all the numbers, and the device makes the views from the beginning, without that
rounding.
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
    specs,
    tiles,
)

PLACES = ("host", "device")  # Where images lie, and where views are finished.
# The entries of a batch that its views are finished by, and made of.
NUMBERS, IMAGES = "numbers", "images"


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


def refusal(source, recipe, augment_on, data_service=None):
    """Why views cannot be made of images that lie on the device, or None if they can.

    Args:
        source: a `Source`. Unless something else speaks against it, its images are
            decoded now, see `Source.ready`.
        recipe: of the views that are to be made there.
        augment_on: where views are finished, of `PLACES`.
        data_service: None, or the addresses of what makes the batches.
    """
    if augment_on != "device":
        return "the host makes the views here, by augment_on; set it to 'device'"
    if data_service:
        return "a data service makes the views; leave data_service out"
    flat = tiles.flat(recipe)
    if any(view.rand_augment or packing.has_affine(view) for view in flat):
        return (
            f"recipe {getattr(recipe, 'name', 'custom')} turns or shears images, which "
            "XLA has no operation for; use images_on='host'"
        )
    if batched.is_small(recipe):
        source = source.ready()
    if not batched.suits(source, recipe):
        found = "files, or images of several sizes,"
        if source.stacked is not None:
            found = "images of {}x{} px".format(*source.image_size)
        return (
            f"{source.name} has {found} for views of up to {batched.largest(recipe)} "
            "px, expected decoded images of one size (as files become by cache_gib if "
            f"all are read), at most {batched.SMALL} px of both; use images_on='host'"
        )
    return None


def check_images(source, recipe, augment_on, data_service=None):
    """Raises `ValueError` if there is a `refusal`."""
    why = refusal(source, recipe, augment_on, data_service)
    if why:
        raise ValueError(f"images_on='device' received, but {why}.")


def finish(batch, recipe):
    """The device's part: a pure function that XLA compiles.

    Args:
        batch: dict of `multiview(augment_on="device")`, or of a replica's part of it;
            with `images_on="device"` also `"images"`, `{mark(source): all its images}`,
            `(n, height, width, channels)`. A batch whose views are finished is returned
            as it is.
        recipe: the recipe that it was made by.

    Returns:
        The batch as the host alone makes it: float32 views, and no `"numbers"`.

    Raises:
        ValueError: if the batch is not of this recipe, or is to be made of images that
            are not there.
    """
    batch = dict(batch)
    held, numbers = batch.pop(IMAGES, None), batch.pop(NUMBERS, None)
    if numbers is None:
        return batch
    begun, images = batch.get("views"), None
    if begun is None:
        ((mark, numbers),) = numbers.items()
        images = _of_source(held, mark)
    channels = (images if begun is None else begun["view_0"]).shape[-1]
    recipe = specs.for_channels(recipe, channels)
    _check(numbers, begun, recipe, channels)
    if begun is None:
        made = _of_images(tf.gather(images, batch["index"]), numbers, recipe)
    else:
        made = _of_begun(begun, numbers, recipe)
    batch["views"] = {
        f"view_{i}": view for i, view in enumerate(tiles.stacked(made, recipe, axis=1))
    }
    return batch


def mark(source):
    """What tells the images of a source from others, a text.

    It is a key of a batch, so that images are compared when a step is traced.
    """
    return f"{source.num_images} images, {source.identity()[:16]}"


def _of_source(held, mark):
    """The images that lie on the device, if they are those of a batch."""
    if held is None:
        raise ValueError(
            "The batch was made with images_on='device', and no images lie there; call "
            "hold_images(source) of the method, or make it with images_on='host'."
        )
    ((there, images),) = held.items()
    if there != mark:
        raise ValueError(
            f"The batch was made of one source ({mark}), and another lies on the "
            f"device ({there}); give hold_images the source of the batches."
        )
    return images


def finishing(recipe):
    """`finish` for batches of a recipe, as `Method.compile` takes it."""
    return functools.partial(finish, recipe=recipe)


def _check(numbers, begun, recipe, channels):
    wanted = [view.size for view in recipe]
    if begun is None:
        count, here = packing.count(recipe, channels), wanted
    else:
        count = packing.count_of_tones(recipe, channels)
        here = [view.shape[-2] for view in begun.values()]
    rows = len(tiles.flat(recipe))
    if numbers.shape[1:] != (rows, count) or here != wanted:
        raise ValueError(
            f"A batch of views of {here} pixels with {numbers.shape[-1]} numbers each "
            f"received for a recipe of {wanted} pixels with {count}; finish it by the "
            "recipe that it was made by."
        )


def _of_begun(begun, numbers, recipe):
    """What `finish` makes of begun views: a list, of the flat recipe."""
    flat = tiles.flat(recipe)
    begun = [begun[f"view_{i}"] for i in range(len(recipe))]
    made = []
    for i, images in enumerate(tiles.unstacked(begun, recipe, axis=1)):
        named = packing.fields(numbers[:, i], flat, images.shape[-1], packing.TONES)
        images = tf.cast(images, tf.float32) * (1.0 / applying.white_of(images.dtype))
        made.append(_toned(images, named, flat[i], applying.may_turn(flat[i])))
    return made


def _of_images(images, packed, recipe):
    """What `finish` makes of images: a list, of the flat recipe."""
    channels, white = images.shape[-1], applying.white_of(images.dtype)
    flat = tiles.flat(recipe)
    resized = batched.geometry(images, packed, flat, batched.summed)
    made = []
    for i, (view, images) in enumerate(zip(flat, resized)):
        named = packing.fields(packed[:, i], flat, channels)
        images = batched.placed(images, named, view, white)
        made.append(_toned(images, named, view))
    return made


def _toned(images, named, view, turned=False):
    """One view of the batch, in planes `(batch, channels, size, size)`.

    Args:
        images: float32 `(batch, size, size, channels)`, where 1.0 is white.
        named: dict of `packing.fields`, that view's.
        view: the `View`.
        turned: whether rows and columns of `images` have changed places.
    """
    size, channels = view.size, images.shape[-1]
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

"""A contact sheet of views: the fastest way to see what training will see."""

import numpy as np
import tensorflow as tf

from tfssl import files
from tfssl.data import pipeline, recipes, sources
from tfssl.tasks import bounds

_GAP = 2  # Pixels between tiles.
_MARGIN = 6  # Pixels between the original and its views.


def sheet(source, recipe, path, *, num_images=8, seed=0, augment=True, start=0):
    """Writes a PNG with one row per image: the original, then each of its views.

    The views are exactly those of the first batch that training with this seed
    and a batch size of `num_images` would see. Normalisation is taken off again,
    16-bit images are shown with 8, one channel as grey, more than three channels
    by their first three.

    Args:
        source: `sources.Source`.
        recipe: sequence of `View`.
        path: file to write, atomically; its folder is made.
        num_images: int, rows of the sheet, at most the images there are.
        seed: int, of order and views.
        augment: False shows the evaluation preprocessing.
        start: int, stream position of the first image.

    Returns:
        uint8 array `(height, width, 3)`, what was written.
    """
    if num_images < 1:
        raise ValueError(f"num_images={num_images} received, expected 1 or more.")
    count = min(num_images, source.num_images)
    recipe = recipes.for_channels(recipe, source.channels)
    dataset = pipeline.multiview(
        source,
        recipe,
        batch_size=count,
        seed=seed,
        start=start,
        augment=augment,
        bad_files=pipeline.BadFiles(max_fraction=1.0),
    )
    batch = next(iter(dataset))
    columns = [_originals(source, batch["index"].numpy(), recipe[0].size)]
    for position, view in enumerate(recipe):
        images = batch["views"][f"view_{position}"].numpy()
        if view.mean is not None:
            images = images * np.float32(view.std) + np.float32(view.mean)
        columns.append(images)
    drawn = _tile([_visible(column) for column in columns])
    files.write_bytes(path, tf.io.encode_png(drawn).numpy())
    return drawn


def _originals(source, indices, size):
    """The untouched images of these indices, whole, fitted into squares."""
    if not source.random_access:
        wanted = {int(i): row for row, i in enumerate(indices)}
        found = [None] * len(wanted)
        for index, raw in source.stream().take(max(wanted) + 1):
            if int(index) in wanted:
                found[wanted[int(index)]] = source.decode(raw)
    else:
        found = [source.decode(source.read(tf.constant(i))) for i in indices]
    made = []
    for image in found:
        image = tf.cast(image, tf.float32) / source.max_value
        fitted = tf.image.resize_with_pad(image, size, size, antialias=True)
        made.append(fitted.numpy())
    return np.stack(made)


def _visible(images):
    """Float `(n, s, s, c)` in [0, 1] -> uint8 `(n, s, s, 3)`."""
    images = np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
    if images.shape[-1] < 3:
        return np.repeat(images[..., :1], 3, axis=-1)
    return images[..., :3]


def _tile(columns):
    """Puts columns of images side by side on white; each keeps its own size."""
    rows = len(columns[0])
    height = max(column.shape[1] for column in columns) + _GAP
    width = sum(column.shape[2] + _GAP for column in columns) + _MARGIN
    drawn = np.full((rows * height + _GAP, width + _GAP, 3), 255, np.uint8)
    left = _GAP
    for number, column in enumerate(columns):
        size = column.shape[1]
        for row, image in enumerate(column):
            top = _GAP + row * height
            drawn[top : top + size, left : left + size] = image
        left += size + _GAP + (_MARGIN if number == 0 else 0)
    return drawn


def show_views(
    data,
    out,
    *,
    recipe="simclr",
    image_size=None,
    num_images=8,
    seed=0,
    augment=True,
    split=None,
    channels=None,
    bit_depth=8,
    data_dir=None,
):
    """Opens data and writes the contact sheet of a recipe on it.

    Args:
        data: see `sources.open_source`.
        out: PNG file to write.
        recipe: name of a recipe, or a sequence of `View`.
        image_size: int, size of the first view; None keeps the recipe's.
        num_images: int, rows of the sheet.
        seed: int, of order and views.
        augment: False shows the evaluation preprocessing.
        split: see `sources.open_source`.
        channels: see `sources.open_source`.
        bit_depth: see `sources.open_source`.
        data_dir: see `sources.open_source`.

    Returns:
        uint8 array `(height, width, 3)`.
    """
    bounds.show_views(locals())
    if isinstance(recipe, str):
        recipe = recipes.get(recipe)
    if image_size:
        recipe = recipe.scaled(image_size)
    source = sources.open_source(
        data, split=split, channels=channels, bit_depth=bit_depth, data_dir=data_dir
    )
    out = files.expanded(out)
    return sheet(source, recipe, out, num_images=num_images, seed=seed, augment=augment)

"""A contact sheet of views: the fastest way to see what training will see."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from tfssl import checks, files
from tfssl.data import passes, pipeline
from tfssl.data.views import recipes, specs, tiles
from tfssl.tasks import arguments, groups
from tfssl.tasks.arguments import OneOf, Path

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
    checks.whole({"num_images": num_images}, "num_images")
    count = min(num_images, source.num_images)
    recipe = specs.for_channels(recipe, source.channels)
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
    side = recipe[0].untiled().size
    columns = [_visible(_originals(source, batch["index"].numpy(), side))]
    for position, view in enumerate(recipe):
        images = batch["views"][f"view_{position}"].numpy()
        if view.mean is not None:
            images = images * np.float32(view.std) + np.float32(view.mean)
        images = _visible(images)
        columns.append(_laid_out(images, view) if tiles.is_tiled(view) else images)
    drawn = _tile(columns)
    files.write_bytes(path, tf.io.encode_png(drawn).numpy())
    return drawn


def _originals(source, indices, size):
    """The untouched images of these indices, whole, fitted into squares."""
    if not source.random_access:
        wanted = {int(i): row for row, i in enumerate(indices)}
        found = [None] * len(wanted)
        for index, raw in source.stream().take(max(wanted) + 1):
            passes.check(index, source)
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


def _laid_out(images, view):
    """`(n, tiles, s, s, 3)` -> squares, every tile in the middle of its cell."""
    count, side, cell = len(images), view.whole, view.whole // view.grid
    drawn = np.full((count, side, side, 3), 255, np.uint8)
    for number in range(view.grid**2):
        top, left = (
            cell * place + (cell - view.size) // 2
            for place in divmod(number, view.grid)
        )
        drawn[:, top : top + view.size, left : left + view.size] = images[:, number]
    return drawn


def _visible(images):
    """Float `(n, …, s, s, c)` in [0, 1] -> uint8 `(n, …, s, s, 3)`."""
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


@arguments.task
def show_views(
    data: Any = "digits",
    out: Path = "views.png",
    *,
    images: groups.Images,
    recipe: Annotated[str | Sequence[Any], OneOf(recipes.RECIPES)] = "simclr",
    image_size: groups.ImageSize = None,
    num_images: groups.Count = 8,
    seed: groups.Seed = 0,
    augment: bool = True,
):
    """Opens data and writes the contact sheet of a recipe on it.

    Args:
        data: where the images are, given as for `tfssl.pretrain`.
        out: PNG file to write, with a name in .png.
        images: see `groups.Images`.
        recipe: name in `recipes.RECIPES`, or a sequence of `View`.
        image_size: pixels of the first view; None keeps the recipe's.
        num_images: images, a row each.
        seed: seed of order and views.
        augment: random views; else the evaluation preprocessing.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: for a file of another kind.
    """
    if not out.lower().endswith(".png"):
        raise ValueError(
            f"out={out!r} received, but the views are written as PNG; give a name that "
            "ends in .png."
        )
    recipe = recipes.get(recipe)
    if image_size:
        recipe = recipe.scaled(image_size)
    source = images.open(data)
    return sheet(source, recipe, out, num_images=num_images, seed=seed, augment=augment)

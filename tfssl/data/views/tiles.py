"""Views in tiles: a recipe as its single pictures, and cutting a picture up.

The numbers of a batch have a row for every tile, as for every other view. So all that
follows the resize (colour, blur, on the host or on the device) takes a tile as a view
of its own, and knows nothing of its neighbours. What the tiles of a view have in common
is the crop and the resize, which go by the row of the first.
"""

import tensorflow as tf

from tfssl.data.views.specs import Recipe, Tile, Tiles


def flat(recipe):
    """The recipe of single pictures: every `Tiles` becomes its `Tile`s."""
    views = [part for view in recipe for part in view.parts()]
    return Recipe(views, getattr(recipe, "name", "custom"))


def is_tiled(view):
    """Whether a view of a recipe is several pictures."""
    return isinstance(view, Tiles) and not isinstance(view, Tile)


def most(recipe):
    """How many tiles a view of the recipe has at most; 1 where none is in tiles."""
    return max(len(view.parts()) for view in recipe)


def is_first(view):
    """Whether a view of a flat recipe has a crop of its own, not that of another."""
    return not isinstance(view, Tile) or view.number == 0


def owners(recipe):
    """For every view of a flat recipe, the number of the one whose crop it has."""
    found = []
    for number, view in enumerate(recipe):
        found.append(number if is_first(view) else found[-1])
    return found


def stacked(made, recipe, axis=0):
    """Pictures of `flat(recipe)` -> those of `recipe`, tiles along a new `axis`.

    Args:
        made: sequence of tensors, one per view of the flat recipe.
        recipe: the recipe.
        axis: int, where the tiles of a view are counted.

    Returns:
        Tuple of tensors, one per view.
    """
    rest, views = list(made), []
    for view in recipe:
        count = len(view.parts())
        parts, rest = rest[:count], rest[count:]
        views.append(tf.stack(parts, axis) if is_tiled(view) else parts[0])
    return tuple(views)


def unstacked(views, recipe, axis=0):
    """The inverse of `stacked`."""
    made = []
    for view, images in zip(recipe, views, strict=True):
        made += tf.unstack(images, axis=axis) if is_tiled(view) else [images]
    return tuple(made)


def cut(images, place, flipped, tile):
    """Cuts one tile out of pictures.

    Args:
        images: `(batch, whole, whole, channels)`.
        place: float32 `(batch, 2)`, where in its cell, from top and left, in [0, 1).
        flipped: bool `(batch,)`, whether to mirror the tile.
        tile: the `Tile`. With `m` pixels to spare in a cell there are `m` places along
            a side, as in the authors' code of PIRL: 21 for 64 of 85 pixels.

    Returns:
        `(batch, size, size, channels)`, of the dtype of `images`.
    """
    row, column = divmod(tile.number, tile.grid)
    cell = tile.whole // tile.grid
    offset = tf.cast(tf.floor(place * float(cell - tile.size)), tf.int32)
    pixel = tf.range(tile.size)
    across = tf.where(flipped[:, tf.newaxis], pixel[::-1], pixel)
    down = row * cell + offset[:, :1] + pixel
    across = column * cell + offset[:, 1:] + across
    rows = tf.gather(images, down, axis=1, batch_dims=1)
    made = tf.gather(rows, across, axis=2, batch_dims=1)
    shape = [images.shape[0], tile.size, tile.size, images.shape[-1]]
    return tf.ensure_shape(made, shape)


def central(image, view):
    """A picture without chance: itself, of tiles those from the middle of their cells.

    Args:
        image: `(size, size, channels)` of `view.untiled()`.
        view: a view of a recipe.
    """
    if not is_tiled(view):
        return image
    place, still = tf.fill([1, 2], 0.5), tf.constant([False])
    tiles = [cut(image[tf.newaxis], place, still, tile)[0] for tile in view.parts()]
    return tf.stack(tiles)

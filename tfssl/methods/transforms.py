"""What pretext tasks do to images: quarter turns, and tiles in another order.

Chance is of (seed, place in the stream) alone, see `stateless`. PIRL wants its
representation not to change by them, the pretext tasks ask which one it was.
"""

import itertools
import math

import numpy as np
import tensorflow as tf

from tfssl import stateless
from tfssl.models import context

TURNS = 4
# Of more tiles than this not all orders are looked at, but so many random ones.
_MOST_TILES = 9
_LOOKED_AT = math.factorial(_MOST_TILES)
# Orders that can be asked for, if the tiles have so many: well below what is looked at.
_MOST_ORDERS = 100_000


def all_turns(images):
    """Squares in all four positions: `(batch, s, s, c)` -> `(4 * batch, s, s, c)`.

    Image by image as they are, then all turned by a quarter, by a half, by three
    quarters, counterclockwise.
    """
    return tf.concat(
        [context.turned(images, quarters) for quarters in range(TURNS)], axis=0
    )


def turned(images, quarters):
    """Turns every square by quarters of its own, counterclockwise.

    Args:
        images: `(batch, s, s, c)`.
        quarters: int64 `(batch,)` from 0 to 3.

    Returns:
        The same shape.
    """
    made = images
    for k in range(1, TURNS):
        here = tf.reshape(tf.equal(quarters, k), [-1, 1, 1, 1])
        made = tf.where(here, context.turned(images, k), made)
    return made


def choices(seed, position, count, *, purpose):
    """One of `count` for every place of the stream: int64 `(batch,)`."""
    return stateless.below(count, seed, position, 1, purpose=purpose)[:, 0]


def orders(seed, position, count, *, purpose):
    """A random order of `count` for every place of the stream: int32 `(batch, count)`.

    All orders are equally probable.
    """
    drawn = stateless.uniform(seed, position, count, purpose=purpose)
    return tf.argsort(drawn, axis=1, stable=True)


def reordered(tiles, order):
    """Tiles in another order.

    Args:
        tiles: `(batch, count, …)`.
        order: int32 `(batch, count)`; place `j` gets tile `order[:, j]`.
    """
    return tf.gather(tiles, order, axis=1, batch_dims=1)


def turned_tiles(tiles, quarters):
    """The tiles of turned images, where they were: `(batch, count, s, s, c)`.

    As all tiles of an image turn alike, a random order after it gives what cutting the
    turned image into tiles and shuffling them gives.
    """
    count = tiles.shape[1]
    flat = tf.reshape(tiles, [-1, *tiles.shape[2:]])
    made = turned(flat, tf.repeat(quarters, count))
    return tf.reshape(made, tf.shape(tiles))


def tiles_of(view, count, owner):
    """A view in tiles, checked.

    Args:
        view: `(batch, count, s, s, c)`.
        count: int, tiles that are expected.
        owner: name of the method, for the error.

    Raises:
        ValueError: if the view is not in so many tiles.
    """
    shape = view.shape
    if shape.rank != 5 or shape[1] != count:
        raise ValueError(
            f"A view of shape {shape} received, but {owner} has num_tiles={count} and "
            f"expects (batch, {count}, size, size, channels); choose a recipe with "
            "tfssl.data.Tiles of that grid."
        )
    return view


def encode_tiles(encoder, head, tiles, training):
    """Every tile by itself through the encoder and a head, side by side.

    Args:
        encoder: Keras model, images -> `(batch, dim)`.
        head: Keras model, `(batch, dim)` -> `(batch, width)`.
        tiles: `(batch, count, s, s, c)`; they pass the encoder together.
        training: bool.

    Returns:
        `(batch, count * width)`, in the order of the tiles.
    """
    count = tiles.shape[1]
    flat = tf.reshape(tiles, [-1, *tiles.shape[2:]])
    made = head(encoder(flat, training=training), training=training)
    return tf.reshape(made, [-1, count * made.shape[-1]])


def distant_orders(count, tiles, seed):
    """Orders of tiles that differ in many places: those that a network can tell apart.

    Noroozi and Favaro, 2016, algorithm 1: after a random one always the order whose
    mean Hamming distance to those chosen is the largest. Among equals chance decides.

    Args:
        count: int, how many, at most `number_of_orders(tiles)`.
        tiles: int. Of more than 9 only 362,880 random orders are looked at.
        seed: int.

    Returns:
        int32 `(count, tiles)`, no two alike.
    """
    rng = np.random.default_rng([seed, tiles])
    if tiles <= _MOST_TILES:
        every = np.array(list(itertools.permutations(range(tiles))), np.uint8)
        every = rng.permutation(every)
    else:
        drawn = rng.permuted(np.tile(np.arange(tiles), (_LOOKED_AT, 1)), axis=1)
        every = rng.permutation(np.unique(drawn, axis=0))
    places = np.ascontiguousarray(every.T)
    # How often each order agrees with the chosen ones: least where most distant.
    agrees = np.zeros(len(every), np.int64)
    chosen = []
    for _ in range(count):
        best = int(np.argmin(agrees))
        chosen.append(every[best])
        for place, tile in zip(places, every[best]):
            agrees += place == tile
        agrees[best] = np.iinfo(np.int64).max // 2  # Not once more.
    return np.array(chosen, np.int32)


def number_of_orders(tiles):
    """How many `distant_orders` there can be."""
    return min(math.factorial(tiles), _MOST_ORDERS)


def mean_distance(orders):
    """The mean share of places in which two of these orders differ."""
    count, tiles = orders.shape
    pairs = count * (count - 1)
    alike = 0
    for place in orders.T:
        found = np.bincount(place, minlength=tiles).astype(np.int64)
        alike += int((found * (found - 1)).sum())
    return 1.0 - alike / (pairs * tiles)

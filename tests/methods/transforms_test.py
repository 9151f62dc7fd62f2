import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.methods.cases import in_tiles
from tfssl.methods import transforms

SQUARES = np.random.default_rng(0).uniform(size=(4, 6, 6, 3)).astype("float32")


def compiled(function, *args):
    """The result in a plain graph, which XLA's equals."""
    results = [
        tf.function(function, jit_compile=by_xla)(*args) for by_xla in (False, True)
    ]
    np.testing.assert_array_equal(*results)
    return results[0].numpy()


def test_turns_are_those_of_numpy():
    found = compiled(transforms.all_turns, SQUARES)
    for quarters in range(4):
        expected = np.rot90(SQUARES, quarters, (1, 2))
        np.testing.assert_array_equal(found[4 * quarters : 4 * quarters + 4], expected)
    quarters = [3, 0, 1, 2]
    found = compiled(transforms.turned, SQUARES, tf.constant(quarters))
    for made, square, k in zip(found, SQUARES, quarters):
        np.testing.assert_array_equal(made, np.rot90(square, k))


def test_tiles_of_numbered_cells_land_where_the_order_says():
    cells = np.arange(9.0).reshape(3, 3).repeat(4, 0).repeat(4, 1)
    tiles = in_tiles(np.stack([cells[..., None]] * 5), 3)
    order = transforms.orders(0, tf.range(5, dtype=tf.int64), 9, purpose="test")
    found = compiled(transforms.reordered, tiles, order)
    for row in range(5):
        for place in range(9):
            assert (found[row, place] == order[row, place].numpy()).all()


def test_turned_tiles_in_any_order_are_the_tiles_of_the_turned_picture():
    tiles, quarters = in_tiles(SQUARES, 3), tf.constant([1, 2, 3, 0])
    found = compiled(transforms.turned_tiles, tiles, quarters)
    expected = in_tiles(transforms.turned(SQUARES, quarters).numpy(), 3)
    cells = np.arange(9).reshape(3, 3)
    for row in range(4):
        where = np.rot90(cells, quarters[row].numpy()).ravel()
        np.testing.assert_array_equal(found[row, where], expected[row])


def test_orders_are_fresh_even_and_of_the_place_alone():
    position = tf.range(7200, dtype=tf.int64)
    draw = lambda p: transforms.orders(3, p, 4, purpose="test")  # noqa: E731
    found = compiled(draw, position)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(found[5:9], draw(position[5:9]))
    other = transforms.orders(4, position, 4, purpose="test").numpy()
    assert 0.02 < (found == other).all(1).mean() < 0.07  # One in 24.


def test_choices_are_even_and_below_their_count():
    position = tf.range(6000, dtype=tf.int64)
    draw = lambda p: transforms.choices(3, p, 6, purpose="test")  # noqa: E731
    counts = np.bincount(compiled(draw, position))
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("tiles, count", [(3, 6), (4, 24), (5, 20)])
def test_distant_orders_are_the_greedy_choice(tiles, count):
    """Each is as far from those before it, in the mean, as any order can be."""
    found = transforms.distant_orders(count, tiles, seed=1)
    assert len(np.unique(found, axis=0)) == count
    assert (np.sort(found, axis=1) == np.arange(tiles)).all()
    every = np.array(list(itertools.permutations(range(tiles))))
    for i in range(1, count):
        chosen = found[:i]
        distances = (every[:, None] != chosen).mean((1, 2))
        taken = (every[:, None] == chosen).all(2).any(1)
        best = distances[~taken].max()
        assert (found[i] != chosen).mean() == pytest.approx(best)
    again = transforms.distant_orders(count, tiles, seed=1)
    np.testing.assert_array_equal(found, again)
    assert (transforms.distant_orders(count, tiles, seed=2) != found).any()


def test_orders_of_nine_tiles_differ_nearly_everywhere():
    found = transforms.distant_orders(100, 9, seed=0)
    pairs = [(a != b).mean() for a, b in itertools.combinations(found, 2)]
    assert transforms.mean_distance(found) == pytest.approx(np.mean(pairs))
    random = np.random.default_rng(0).permuted(np.tile(np.arange(9), (100, 1)), axis=1)
    assert transforms.mean_distance(found) > transforms.mean_distance(random) + 0.005
    assert transforms.number_of_orders(4) == 24
    assert transforms.number_of_orders(16) < math.factorial(16)


def test_many_tiles_have_orders_too():
    found = transforms.distant_orders(20, 16, seed=0)
    assert found.shape == (20, 16)
    assert (np.sort(found, axis=1) == np.arange(16)).all()


def test_another_number_of_tiles_is_refused():
    with pytest.raises(ValueError, match=r"num_tiles=9 and expects \(batch, 9, size"):
        transforms.tiles_of(tf.zeros([2, 4, 3, 3, 1]), 9, "PIRL")
    with pytest.raises(ValueError, match="choose a recipe with tfssl.data.Tiles"):
        transforms.tiles_of(tf.zeros([2, 3, 3, 1]), 9, "PIRL")

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import context


def network(blocks=3):
    keras.utils.set_random_seed(0)
    made = context.pixel_cnn(6, 4, blocks=blocks, hidden=5)
    for variable in made.variables:  # No ReLU is off for all.
        if variable.path.endswith("bias"):
            variable.assign(np.full(variable.shape, 0.5))
    return made


def reach(blocks, row):
    """`(rows, columns)` of bools: which places change what is predicted at a row."""
    grid = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 5, 6)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(grid)
        found = network(blocks)(grid)[:, row, 2]
    return np.abs(tape.gradient(found, grid)).sum((0, 3)) > 0


@pytest.mark.parametrize("row", range(5))
def test_a_row_sees_itself_and_the_rows_above_in_all_columns_near(row):
    seen = reach(3, row)
    assert not seen[row + 1 :].any()
    assert seen[row].all() and seen[max(row - 1, 0)].all()
    assert seen[max(row - 3, 0) : row].any(1).all()


def test_a_block_sees_one_row_up_and_one_column_to_each_side():
    seen = reach(1, 3)
    expected = np.zeros((5, 5), bool)
    expected[2:4, 1:4] = True
    np.testing.assert_array_equal(seen, expected)


def test_a_block_is_that_of_the_pseudo_code():
    made = network(1)
    by_name = {v.path: v.numpy().astype(np.float64) for v in made.variables}
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 6))

    def part(name, y):
        kernel = by_name[f"{name}/kernel"]
        height, width = kernel.shape[:2]
        side = width // 2
        y = np.pad(y, [(0, 0), (height - 1, 0), (side, side), (0, 0)])
        rows, columns = y.shape[1] - height + 1, y.shape[2] - width + 1
        out = by_name[f"{name}/bias"] + sum(
            y[:, i : i + rows, j : j + columns] @ kernel[i, j]
            for i in range(height)
            for j in range(width)
        )
        return out

    y = np.maximum(part("block0_in", x), 0)
    y = np.maximum(part("block0_up", part("block0_row", y)), 0)
    y = np.maximum(x + part("block0_out", y), 0)
    np.testing.assert_allclose(made(x), part("predict", y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quarters", range(4))
def test_a_turned_grid_is_that_of_numpy(quarters):
    grid = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    found = context.turned(tf.constant(grid), quarters)
    np.testing.assert_array_equal(found, np.rot90(grid, quarters, (1, 2)))

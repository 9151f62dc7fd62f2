"""Rows as clusters and components take them."""

import numpy as np
import tensorflow as tf


def on_gpu():
    """Whether TensorFlow computes on a GPU, which wants large products."""
    return bool(tf.config.list_logical_devices("GPU"))


def unit_norm(rows):
    """Each row of an array divided by its L2 norm, float32; rows of zeros stay."""
    rows = np.asarray(rows, np.float32)
    # Divide by the largest entry first: the squares of 1e-30 or 1e30 would
    # leave the float32 range.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def blocks(x, name, block_size=4096):
    """Checks `x` and cuts it into blocks, without a copy of the whole.

    Args:
        x: float array or tensor `(n, dim)`.
        name: what the errors call it.
        block_size: rows per block.

    Returns:
        Iterator of `(start, float32 array (at most block_size, dim))`.

    Raises:
        ValueError: on a wrong shape or dtype, NaN or infinity, before the first block.
    """
    x = x if tf.is_tensor(x) else np.asarray(x)
    if not tf.as_dtype(x.dtype).is_floating or len(x.shape) != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and dtype {tf.as_dtype(x.dtype).name}, "
            "expected floats of shape (rows, dim), both 1 or more."
        )

    def cut():
        for start in range(0, len(x), block_size):
            yield start, np.asarray(x[start : start + block_size], np.float32)

    wrong = [
        start + row
        for start, block in cut()
        for row in np.flatnonzero(~np.isfinite(block).all(axis=1))
    ]
    if wrong:
        raise ValueError(
            f"{name} has NaN or infinity in {len(wrong)} of {len(x)} rows, first in "
            f"{[int(row) for row in wrong[:5]]}; look for a diverged model or a bad "
            "image, or leave these rows out."
        )
    return cut()


def checked_rows(x, name):
    """`x` as float32 tensor `(n, dim)`, or the errors of `blocks`."""
    blocks(x, name)
    return tf.cast(x, tf.float32)

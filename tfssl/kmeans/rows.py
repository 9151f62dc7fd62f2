"""Rows as clusters and components take them."""

import numpy as np
import tensorflow as tf


def unit_norm(rows):
    """Each row of an array divided by its L2 norm; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def checked_rows(x, name):
    """`x` as float32 tensor `(n, dim)`, or a ValueError."""
    x = x if tf.is_tensor(x) else np.asarray(x)
    if not tf.as_dtype(x.dtype).is_floating or len(x.shape) != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and dtype {tf.as_dtype(x.dtype).name}, "
            "expected floats of shape (rows, dim), both 1 or more."
        )
    rows = tf.cast(x, tf.float32)
    wrong = np.flatnonzero(~np.isfinite(rows.numpy()).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{name} has NaN or infinity in {len(wrong)} of {len(rows)} rows, first in "
            f"{wrong[:5].tolist()}; look for a diverged model or a bad image, or leave "
            "these rows out."
        )
    return rows

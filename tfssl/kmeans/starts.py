"""Where k-means begins.

Reference:
    Arthur and Vassilvitskii, 2007, "k-means++: the advantages of careful seeding".
"""

import numpy as np
import tensorflow as tf

from tfssl import checks
from tfssl.kmeans import rows as rows_lib

_INITS = ("k-means++", "random")


def centroids(rows, k, init, generator):
    """The first centroids of `lloyd.fit`.

    Args:
        rows: float32 tensor `(n, dim)`.
        k: int from 1 to n.
        init: as for `lloyd.fit`.
        generator: NumPy random generator.

    Returns:
        float32 array `(k, dim)`.

    Raises:
        ValueError: for another `init`.
    """
    if isinstance(init, str):
        if init not in _INITS:
            raise checks.refused(
                "init", init, f"the centroids or {checks.listed(_INITS)}"
            )
        if init == "k-means++":
            chosen = plus_plus(rows.numpy(), k, generator)
        else:
            chosen = generator.choice(len(rows), k, replace=False)
        return tf.gather(rows, chosen).numpy()
    given = rows_lib.checked_rows(init, "init").numpy()
    if given.shape != (k, rows.shape[1]):
        raise ValueError(
            f"init has shape {given.shape}, expected (num_clusters, dim) = "
            f"{(k, rows.shape[1])}."
        )
    return given


def plus_plus(x, k, generator):
    """Chooses k rows, each far from those before it: k-means++ (its greedy form).

    The first row is any; each next one is the best of `2 + log(k)` tries, drawn with
    probability proportional to the squared distance to the nearest row chosen so
    far. Costs as many multiply-adds as `2 + log(k)` iterations of `fit`, in thin
    products that take several times as long (`benchmarks/kmeans.py --plus_plus`), and
    one more copy of x.

    Args:
        x: float32 `(n, dim)`, finite.
        k: int from 1 to n.
        generator: NumPy random generator.

    Returns:
        int64 `(k,)`, numbers of different rows. Where fewer than k rows differ in
        their values, the rest are any rows.
    """
    x = np.asarray(x, np.float32)
    x = x - x.mean(axis=0)  # Squares of differences lose fewer digits.
    squares = np.einsum("nd,nd->n", x, x)
    chosen = np.empty(k, np.int64)
    chosen[0] = generator.integers(len(x))
    free = np.ones(len(x), bool)
    free[chosen[0]] = False
    nearest = np.full(len(x), np.inf, np.float32)
    candidates = chosen[:1]
    for i in range(1, k + 1):
        found = (-2 * x[candidates]) @ x.T  # (tries, n)
        found += squares
        found += squares[candidates, np.newaxis]
        np.minimum(found, nearest, out=found)
        best = np.argmin(found.sum(axis=1, dtype=np.float64))
        nearest = np.maximum(found[best], 0)
        chosen[i - 1] = candidates[best]
        free[candidates[best]] = False
        if i == k:
            break
        weights = np.cumsum(nearest * free, dtype=np.float64)
        if weights[-1] > 0:
            draws = generator.random(2 + int(np.log(k))) * weights[-1]
            draws = np.minimum(draws, np.nextafter(weights[-1], 0))
            # To the right: a row of weight 0 is never met.
            candidates = np.searchsorted(weights, draws, side="right")
        else:
            candidates = generator.choice(np.flatnonzero(free), 1)
    return chosen

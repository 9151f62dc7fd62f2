"""PCA and whitening from sums over the rows.

As DeepCluster (Caron et al., 2018, https://arxiv.org/abs/1807.05520) prepares its
features by faiss's `PCAMatrix` with `eigen_power=-0.5`, except that variances have
the divisor `count - 1` and so become 1; faiss's sums have none, a factor that the
L2 norm which follows takes out again.
"""

import dataclasses

import numpy as np

from tfssl import checks
from tfssl.kmeans import rows as rows_lib

_FLOOR = 1e-10  # Of the largest eigenvalue; float32 has no digits below.


class Moments:
    """Sums from which means and covariances follow, gathered block by block.

    All in float64. Moments of parts of the data, as of several workers, add up: add
    their three attributes.

    Args:
        dim: int >= 1, numbers per row.

    Attributes:
        count: number of rows so far.
        total: float64 `(dim,)`, the sum of the rows.
        products: float64 `(dim, dim)`, the sum of their outer products.
    """

    def __init__(self, dim):
        checks.whole({"dim": dim}, "dim")
        self.count = 0
        self.total = np.zeros(dim)
        self.products = np.zeros((dim, dim))

    def update(self, rows, *, block_size=4096):
        """Adds rows.

        Args:
            rows: float `(n, dim)`, array or tensor.
            block_size: rows that are held in float64 at a time.

        Raises:
            ValueError: on a wrong shape, NaN or infinity; nothing was added then.
        """
        blocks = rows_lib.blocks(rows, "rows", block_size)
        if rows.shape[1] != len(self.total):
            raise ValueError(
                f"Rows of {rows.shape[1]} numbers were given to Moments of "
                f"{len(self.total)}; give rows of {len(self.total)}."
            )
        for _, block in blocks:
            block = block.astype(np.float64)
            self.count += len(block)
            self.total += block.sum(axis=0)
            self.products += block.T @ block


@dataclasses.dataclass(frozen=True)
class PCA:
    """A projection on principal components.

    Attributes:
        mean: float32 `(dim,)`, taken off first.
        projection: float32 `(dim, components)`, whitening included.
        eigenvalues: float64 `(components,)`, variances (divisor `count - 1`) along
            the components, largest first, before any floor.
    """

    mean: np.ndarray
    projection: np.ndarray
    eigenvalues: np.ndarray

    def transform(self, rows, *, block_size=4096):
        """Projects rows.

        Args:
            rows: float `(n, dim)`, array or tensor.
            block_size: rows that are projected at a time.

        Returns:
            float32 `(n, components)`.

        Raises:
            ValueError: on a wrong shape, NaN or infinity.
        """
        blocks = rows_lib.blocks(rows, "rows", block_size)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"Rows of {rows.shape[1]} numbers were given to a PCA of "
                f"{len(self.mean)}; give rows of {len(self.mean)}."
            )
        projected = np.empty((len(rows), self.projection.shape[1]), np.float32)
        for start, block in blocks:
            end = start + len(block)
            projected[start:end] = (block - self.mean) @ self.projection
        return projected


def pca(moments, *, components=256, whiten=True):
    """Principal components of the rows that `moments` has seen.

    Args:
        moments: `Moments`, or anything with its three attributes.
        components: int >= 1, at most the number of rows and their width.
        whiten: whether each component is divided by the root of its eigenvalue, so
            that all have variance 1. Eigenvalues are first raised to 1e-10 of the
            largest: what is below is rounding, which must not be blown up.

    Returns:
        A `PCA`. Of each component and its opposite, the one whose largest entry is
        positive.

    Raises:
        ValueError: on too few rows or dimensions, or if all rows are equal.
    """
    dim = len(moments.total)
    if not 1 <= components <= min(dim, moments.count):
        raise ValueError(
            f"components={components} were asked of {moments.count} rows of {dim} "
            f"numbers; give components from 1 to {min(dim, moments.count)}, or more "
            "rows."
        )
    mean = moments.total / moments.count
    scatter = moments.products - moments.count * np.outer(mean, mean)
    values, vectors = np.linalg.eigh(scatter / max(moments.count - 1, 1))
    values = np.maximum(values[::-1][:components], 0)
    vectors = vectors[:, ::-1][:, :components]
    largest = np.take_along_axis(vectors, np.argmax(abs(vectors), axis=0)[None], axis=0)
    vectors = vectors * np.sign(largest)
    if whiten:
        # Of float64 sums: what is left of a constant is rounding of its square.
        if values[0] <= 1e-14 * max(np.square(mean).sum(), 1e-300):
            raise ValueError(
                f"All {moments.count} rows are equal, so there is nothing to whiten; "
                "look at the features, which have collapsed."
            )
        vectors = vectors / np.sqrt(np.maximum(values, _FLOOR * values[0]))
    return PCA(
        mean=mean.astype(np.float32),
        projection=vectors.astype(np.float32),
        eigenvalues=values,
    )

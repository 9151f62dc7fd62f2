"""K-means: Lloyd's iteration.

Distances are blocks of matrix products on whatever device TensorFlow has; sums are
added on the host, in the order of the rows, so that the same rows and the same seed
give the same bits.

References:
    Lloyd, 1982. Empty clusters follow faiss (`Clustering.cpp`), which DeepCluster
    (Caron et al., 2018, https://arxiv.org/abs/1807.05520) uses; spherical k-means
    follows DeepCluster-v2 (Caron et al., 2020, https://arxiv.org/abs/2006.09882).
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfssl import checks
from tfssl.kmeans import rows as rows_lib
from tfssl.kmeans import starts

_EMPTY = ("split", "keep")
_SPLIT = 1 / 1024  # faiss: how far the halves of a split cluster move apart.
_SUM_ROWS = 65536  # Rows that are summed in float32 before float64 takes over.
_BLOCK = 1024  # Rows per product: the fastest on CPUs, and 25 times too few on a GPU,
_PRODUCTS = 1 << 26  # where so many products are made at a time.


@dataclasses.dataclass(frozen=True)
class Clustering:
    """Rows put into clusters.

    Attributes:
        centroids: float32 `(k, dim)`.
        assignments: int32 `(n,)`, the nearest centroid of every row.
        sizes: int64 `(k,)`, rows per cluster; may hold zeros.
        objective: sum over rows of the squared distance to the nearest centroid.
        objectives: float64 `(iterations + 1,)`, the objective before each update
            and after the last one.
    """

    centroids: np.ndarray
    assignments: np.ndarray
    sizes: np.ndarray
    objective: float
    objectives: np.ndarray


def fit(
    x,
    *,
    num_clusters,
    iterations=20,
    init="k-means++",
    spherical=False,
    empty="split",
    seed=0,
    block_size=None,
):
    """Finds clusters by Lloyd's iteration.

    An iteration costs `n * dim * k` multiply-adds. The rows are held once more, in
    float32. On a GPU that rounds products to TF32, a row nearly as far from one
    centroid as from another may go to either.

    Args:
        x: float `(n, dim)`, array or tensor, without NaN and infinity.
        num_clusters: k, from 1 to n.
        iterations: updates of the centroids, >= 0; a last assignment follows.
        init: `"k-means++"`, k rows far from each other, which may cost more than the
            updates, see `plus_plus`; `"random"`, k different rows, as the DeepClusters
            start; or the centroids, `(k, dim)`.
        spherical: whether rows are first divided by their L2 norm, and centroids
            after each update: the cosine decides, and squared distances are
            `2 - 2 * cosine`. A row of zeros stays one, at distance 1 of everything.
        empty: what becomes of a cluster that got no row before an update. `"split"`:
            half of another one, see `split_empty`; `"keep"`: its centroid stays, as in
            DeepCluster-v2. Clusters may still be empty after the last assignment.
        seed: int >= 0, for everything drawn here.
        block_size: rows per matrix product; memory is a few times
            `4 * block_size * k` bytes. None takes 1,024, and on a GPU as many as make
            products of 256 MB, at most 65,536.

    Returns:
        A `Clustering`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.
    """
    rows = rows_lib.checked_rows(x, "x")
    _check_arguments(rows, num_clusters, iterations, empty)
    block_size = _block_of(block_size, num_clusters)
    generator = np.random.default_rng(seed)
    if spherical:
        rows = tf.convert_to_tensor(rows_lib.unit_norm(rows.numpy()))
    centroids = starts.centroids(rows, num_clusters, init, generator)
    if spherical:
        centroids = rows_lib.unit_norm(centroids)
    objectives = []
    for _ in range(iterations):
        assignments, distances = _nearest(rows, centroids, block_size)
        objectives.append(float(np.sum(distances, dtype=np.float64)))
        centroids, sizes = _update(rows, assignments, centroids, spherical)
        if empty == "split":
            centroids, sizes = split_empty(centroids, sizes, generator)
            centroids = rows_lib.unit_norm(centroids) if spherical else centroids
    assignments, distances = _nearest(rows, centroids, block_size)
    objectives.append(float(np.sum(distances, dtype=np.float64)))
    return Clustering(
        centroids=centroids,
        assignments=assignments,
        sizes=np.bincount(assignments, minlength=num_clusters).astype(np.int64),
        objective=objectives[-1],
        objectives=np.array(objectives),
    )


def assign(x, centroids, *, block_size=None):
    """The nearest centroid of every row.

    Args:
        x: float `(n, dim)`, array or tensor, without NaN and infinity.
        centroids: float `(k, dim)`, the same.
        block_size: see `fit`; no matrix `(n, k)` is made.

    Returns:
        `(assignments, squared_distances)`: int32 and float32 `(n,)`; of equally
        near centroids the one with the smaller number.

    Raises:
        ValueError: on wrong shapes, NaN or infinity.
    """
    rows, centroids = (
        rows_lib.checked_rows(x, "x"),
        rows_lib.checked_rows(centroids, "centroids"),
    )
    if rows.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"x has {rows.shape[1]} numbers per row and the centroids "
            f"{centroids.shape[1]}; both must come from one space."
        )
    return _nearest(rows, centroids, _block_of(block_size, len(centroids)))


def split_empty(centroids, sizes, generator):
    """Gives each empty cluster half of another one, as faiss does.

    For each empty cluster in turn, the others are walked through from the first on,
    again and again, and cluster j is taken with probability `(n_j - 1) / (n - k)`.
    Both then have its centroid, times `1 + 1/1024` in even and `1 - 1/1024` in odd
    dimensions for the empty one, and the other way round for the donor, and count
    as `n_j / 2` rows.

    Args:
        centroids: float32 `(k, dim)`.
        sizes: `(k,)`, rows per cluster, n >= k altogether.
        generator: NumPy random generator; faiss draws with one fixed seed.

    Returns:
        New `(centroids, sizes)`, sizes in float64.
    """
    centroids, sizes = centroids.copy(), np.array(sizes, np.float64)
    spare = sizes.sum() - len(sizes)
    up = np.where(np.arange(centroids.shape[1]) % 2, 1 - _SPLIT, 1 + _SPLIT)
    for empty in np.flatnonzero(sizes == 0):
        taken = np.zeros(0, np.int64)
        while not len(taken):
            # One walk through all clusters. As n >= k, some cluster counts more
            # than 1, and a walk ends without a donor in 4 of 10 cases at most.
            draws = generator.random(len(sizes))
            taken = np.flatnonzero(draws * spare < sizes - 1)
        donor = taken[0]
        centroids[empty] = centroids[donor] * up
        centroids[donor] *= 2 - up
        sizes[empty] = sizes[donor] / 2
        sizes[donor] -= sizes[empty]
    return centroids, sizes


def _update(rows, assignments, centroids, spherical):
    """Means of the rows of each cluster, and their number; without rows as before."""
    sums, sizes = _sums(rows, assignments, len(centroids))
    means = sums / np.maximum(sizes[:, np.newaxis], 1)
    moved = sizes > 0
    if spherical:
        # Opposite rows may cancel; the direction then stays as it was.
        moved &= np.linalg.norm(means, axis=1) > 0
        means = rows_lib.unit_norm(means)
    means = np.where(moved[:, np.newaxis], means, centroids).astype(np.float32)
    return means, sizes


def _sums(rows, assignments, k):
    """Float64 sum of the rows of each cluster, and their number.

    In one order, whatever the device: a GPU's own sums by segment add as threads
    arrive, so there they are matrix products, in float64.
    """
    sizes = np.bincount(assignments, minlength=k)
    if rows_lib.on_gpu():
        block_size = tf.constant(_block_of(None, k) // 2)
        return _sums_by_products(rows, assignments, k, block_size).numpy(), sizes
    sums = np.zeros((k, rows.shape[1]))
    for start in range(0, len(rows), _SUM_ROWS):
        part = slice(start, start + _SUM_ROWS)
        sums += tf.math.unsorted_segment_sum(rows[part], assignments[part], k).numpy()
    return sums, sizes


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((), tf.int32),
        tf.TensorSpec((), tf.int32),
    ]
)
def _sums_by_products(rows, assignments, k, block_size):
    total = tf.zeros([k, tf.shape(rows)[1]], tf.float64)
    for start in tf.range(0, tf.shape(rows)[0], block_size):
        part = tf.cast(rows[start : start + block_size], tf.float64)
        of_cluster = tf.one_hot(
            assignments[start : start + block_size], k, dtype=tf.float64
        )
        total += tf.matmul(of_cluster, part, transpose_a=True)
    return total


def _nearest(rows, centroids, block_size):
    assignments, distances = _nearest_in_blocks(
        rows, tf.convert_to_tensor(centroids), tf.constant(block_size)
    )
    return assignments.numpy(), distances.numpy()


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((), tf.int32),
    ]
)
def _nearest_in_blocks(rows, centroids, block_size):
    """Nearest centroids and squared distances, a block of rows at a time.

    `|c|^2 / 2 - x c` decides, with the centroids' mean as origin: far from the
    origin the terms would be large, their difference small and its digits lost. The
    distance itself is then summed from differences, which loses none.
    """
    origin = tf.reduce_mean(centroids, axis=0)
    centroids -= origin
    weights = -tf.transpose(centroids)
    half_squares = tf.reduce_sum(tf.square(centroids), axis=1) / 2
    total = tf.shape(rows)[0]
    block_size = tf.minimum(block_size, total)
    last = (total - 1) // block_size * block_size  # Where the last block starts …
    starts = tf.minimum(tf.range(0, total, block_size), total - block_size)
    skipped = last - (total - block_size)  # … if it need not be a whole one.

    def of_block(start):
        block = rows[start : start + block_size] - origin
        scores = tf.nn.bias_add(tf.matmul(block, weights), half_squares)
        found = tf.argmin(scores, axis=1, output_type=tf.int32)
        differences = block - tf.gather(centroids, found)
        return found, tf.reduce_sum(tf.square(differences), axis=1)

    # Parallel: the minimum of one block, on one core, beside the products of others.
    found = tf.map_fn(
        of_block,
        starts,
        fn_output_signature=(tf.int32, tf.float32),
        parallel_iterations=4,
    )
    found = [tf.reshape(values, [-1]) for values in found]
    return [tf.concat([v[:last], v[last + skipped :]], axis=0) for v in found]


def _block_of(block_size, num_clusters):
    """Rows per matrix product, checked."""
    if block_size is not None:
        checks.whole({"block_size": block_size}, "block_size")
        return block_size
    if not rows_lib.on_gpu():
        return _BLOCK
    return int(np.clip(_PRODUCTS // num_clusters, _BLOCK, _SUM_ROWS))


def _check_arguments(rows, num_clusters, iterations, empty):
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(
            f"num_clusters={num_clusters} clusters were asked of {len(rows)} rows; "
            f"give num_clusters from 1 to {len(rows)}, or more rows."
        )
    checks.one_of({"empty": empty}, "empty", _EMPTY)
    checks.whole({"iterations": iterations}, "iterations", least=0)

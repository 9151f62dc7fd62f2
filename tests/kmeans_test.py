"""K-means and PCA against scikit-learn and plain loops."""

import types

import numpy as np
import pytest
import sklearn.cluster
import sklearn.decomposition
import tensorflow as tf

from tfssl import kmeans
from tfssl.kmeans import lloyd


def _blobs(clusters, per_cluster, dim, *, spread=0.05, seed=0):
    """Rows around `clusters` random corners, in random order, and the corners."""
    random = np.random.default_rng(seed)
    corners = random.normal(size=(clusters, dim))
    rows = np.repeat(corners, per_cluster, axis=0)
    rows = rows + spread * random.normal(size=rows.shape)
    return random.permutation(rows).astype(np.float32), corners


def _rows(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("offset", [0, 1000])
def test_lloyd_matches_scikit_learn(offset):
    """Also far from the origin, where a float32 `|x|^2` has no digits to spare."""
    x = _rows((500, 7)) + np.float32(offset)
    start = x[:12]
    found = kmeans.fit(x, num_clusters=12, iterations=30, init=start)
    theirs = sklearn.cluster.KMeans(
        12, init=start, n_init=1, max_iter=30, tol=0, algorithm="lloyd"
    ).fit(x)
    np.testing.assert_allclose(found.centroids, theirs.cluster_centers_, atol=2e-4)
    np.testing.assert_array_equal(found.assignments, theirs.labels_)
    assert found.objective == pytest.approx(theirs.inertia_, rel=1e-4)
    assert found.centroids.dtype == np.float32
    assert found.assignments.dtype == np.int32
    assert found.sizes.dtype == np.int64
    np.testing.assert_array_equal(found.sizes, np.bincount(theirs.labels_))


def test_objectives_are_those_before_each_update_and_after_the_last():
    x, start = _rows((200, 5)), _rows((6, 5), seed=1)
    found = kmeans.fit(x, num_clusters=6, iterations=4, init=start)
    expected, centroids = [], start.astype(np.float64)
    for _ in range(5):
        squares = np.square(x[:, None] - centroids).sum(-1)
        expected.append(squares.min(1).sum())
        last, nearest = centroids, squares.argmin(1)
        centroids = np.stack([x[nearest == j].mean(0) for j in range(6)])
    np.testing.assert_allclose(found.objectives, expected, rtol=1e-6)
    np.testing.assert_allclose(found.centroids, last, atol=1e-6)
    assert found.objective == found.objectives[-1]
    only_assigned = kmeans.fit(x, num_clusters=6, iterations=0, init=start)
    np.testing.assert_array_equal(only_assigned.centroids, start)
    assert only_assigned.objective == found.objectives[0]


def test_spherical_matches_a_plain_loop():
    """DeepCluster-v2: 10 updates, 11 assignments, an empty cluster stays."""
    x = _rows((300, 6)) + 0.5
    start = np.concatenate([x[:7], x[:1]])  # The last one gets no row at first.
    found = kmeans.fit(
        x, num_clusters=8, iterations=10, init=start, spherical=True, empty="keep"
    )
    unit = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    centroids = start / np.linalg.norm(start, axis=1, keepdims=True).astype(np.float64)
    for _ in range(10):
        nearest = (unit @ centroids.T).argmax(1)
        for j in set(nearest):
            mean = unit[nearest == j].mean(0)
            centroids[j] = mean / np.linalg.norm(mean)
    cosines = unit @ centroids.T
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(found.assignments, cosines.argmax(1))
    assert found.objective == pytest.approx((2 - 2 * cosines.max(1)).sum(), rel=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-6)
    once = kmeans.fit(
        x, num_clusters=8, iterations=1, init=start, spherical=True, empty="keep"
    )
    np.testing.assert_allclose(once.centroids[7], unit[0], atol=1e-6)
    assert np.abs(once.centroids[0] - unit[0]).max() > 0.01


def test_spherical_with_rows_that_cancel_and_rows_of_zeros():
    x = np.float32([[1, 0], [-1, 0], [0, 0]])
    found = kmeans.fit(
        x, num_clusters=1, iterations=3, init=np.float32([[0, 3]]), spherical=True
    )
    np.testing.assert_array_equal(found.centroids, [[0, 1]])
    assert found.objective == 2 + 2 + 1  # Two right angles, and the zeros.


@pytest.mark.parametrize("spherical", [False, True])
def test_empty_clusters_are_split(spherical):
    x = _rows((400, 5))
    start = np.repeat(x[:2], 8, axis=0)  # 14 of 16 start empty.
    found = kmeans.fit(
        x, num_clusters=16, iterations=20, init=start, spherical=spherical
    )
    assert found.sizes.min() > 0


def test_empty_clusters_keep_their_centroids():
    x = _rows((400, 5))
    start = np.concatenate([x[:2], np.full((14, 5), 1000, np.float32)])
    settings = {"num_clusters": 16, "init": start}
    kept = kmeans.fit(x, empty="keep", **settings)
    assert (kept.sizes[2:] == 0).all()
    np.testing.assert_array_equal(kept.centroids[2:], 1000)
    split = kmeans.fit(x, **settings)
    assert split.sizes.min() > 0
    assert split.objective < 0.6 * kept.objective


def test_donor_and_halves_follow_faiss():
    """The walk by hand: n = 14, k = 5, so cluster j is taken if u * 9 < n_j - 1."""
    centroids = np.float32([[1, 2, 3], [4, 5, 6], [9, 9, 9], [7, 8, 9], [9, 9, 9]])
    draws = iter([[0.1, 0.9, 0, 0.7, 0], [0, 0.9, 0.9, 0.9, 0.9], [0, 0.5, 0, 0, 0.5]])
    generator = types.SimpleNamespace(random=lambda count: np.array(next(draws)))
    # Cluster 2, first walk: 0.9 < 0, 8.1 < 2, 0 < -1, 6.3 < 9: taken is 3.
    # Sizes are now 1, 3, 5, 5, 0. Cluster 4, second walk: 0 < 0, 8.1 < 2, 8.1 < 4,
    # 8.1 < 4, 8.1 < -1: none. Third walk: 0 < 0, 4.5 < 2, 0 < 4: taken is 2.
    found, sizes = kmeans.split_empty(centroids, [1, 3, 0, 10, 0], generator)
    np.testing.assert_array_equal(sizes, [1, 3, 2.5, 5, 2.5])
    e = 1 / 1024
    half = [7 * (1 + e), 8 * (1 - e), 9 * (1 + e)]
    np.testing.assert_allclose(found[3], [7 - 7 * e, 8 + 8 * e, 9 - 9 * e], rtol=1e-6)
    np.testing.assert_allclose(
        found[2], np.multiply(half, [1 - e, 1 + e, 1 - e]), rtol=1e-6
    )
    np.testing.assert_allclose(
        found[4], np.multiply(half, [1 + e, 1 - e, 1 + e]), rtol=1e-6
    )
    np.testing.assert_array_equal(found[:2], centroids[:2])
    assert centroids[3, 0] == 7  # The argument is left alone.


def test_donors_are_drawn_by_their_size():
    """n - k = 20: the first cluster is met first and taken with 4 / 20, the second
    with (1 - 0.2) * 16 / 20, and a walk without donor begins again."""
    generator = np.random.default_rng(0)
    first = 0
    for _ in range(4000):
        _, sizes = kmeans.split_empty(np.ones((3, 2)), [5, 17, 0], generator)
        first += sizes[0] == 2.5
    # spare = 22 - 3 = 19: p = 4/19, q = (1 - 4/19) * 16/19, first = p / (p + q).
    p = 4 / 19
    expected = p / (p + (1 - p) * 16 / 19)
    assert first / 4000 == pytest.approx(expected, abs=0.02)  # 3 deviations.


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_same_seed_same_bits(init):
    x = _rows((3000, 16))
    settings = {"num_clusters": 40, "iterations": 3, "init": init}

    def fit(seed):
        return kmeans.fit(x, seed=seed, **settings)

    one, again, other = fit(1), fit(1), fit(2)
    np.testing.assert_array_equal(one.centroids, again.centroids)
    np.testing.assert_array_equal(one.assignments, again.assignments)
    np.testing.assert_array_equal(one.objectives, again.objectives)
    assert np.abs(one.centroids - other.centroids).max() > 0


def test_random_start_takes_different_rows():
    x = np.arange(30, dtype=np.float32).reshape(30, 1)
    found = kmeans.fit(x, num_clusters=30, iterations=0, init="random")
    assert sorted(found.centroids[:, 0]) == list(range(30))
    assert found.objective == 0


def test_plus_plus_finds_every_blob_where_random_rows_miss_some():
    x, corners = _blobs(30, 40, 6)
    start = kmeans.plus_plus(x, 30, np.random.default_rng(0))
    nearest = np.square(x[start][:, None] - corners).sum(-1).argmin(1)
    assert len(set(nearest)) == 30
    better = kmeans.fit(x, num_clusters=30, iterations=0, init="k-means++")
    random = kmeans.fit(x, num_clusters=30, iterations=0, init="random")
    assert better.objective < 0.1 * random.objective


def test_the_default_start_is_plus_plus():
    x = _rows((200, 4))
    settings = {"num_clusters": 9, "iterations": 2, "seed": 3}
    found = kmeans.fit(x, **settings)
    same = kmeans.fit(x, init="k-means++", **settings)
    np.testing.assert_array_equal(found.centroids, same.centroids)
    start = x[kmeans.plus_plus(x, 9, np.random.default_rng(3))]
    np.testing.assert_array_equal(
        found.centroids, kmeans.fit(x, init=start, **settings).centroids
    )


def test_over_seeds_plus_plus_is_as_good_as_scikit_learn_and_better_than_random():
    """Blobs that overlap a little; 10 starts of each, 20 updates."""
    x, _ = _blobs(15, 30, 5, spread=0.2)

    def objectives(init):
        return [
            kmeans.fit(x, num_clusters=15, init=init, seed=seed).objective
            for seed in range(10)
        ]

    ours, random = np.mean(objectives("k-means++")), np.mean(objectives("random"))
    theirs = np.mean(
        [
            sklearn.cluster.KMeans(
                15, init="k-means++", n_init=1, max_iter=20, tol=0, random_state=seed
            )
            .fit(x)
            .inertia_
            for seed in range(10)
        ]
    )
    assert ours <= 1.02 * theirs
    assert ours < random


def test_plus_plus_with_fewer_values_than_clusters():
    x = np.repeat(np.float32([[0, 1], [5, 5], [7, -9]]), 4, axis=0)
    start = kmeans.plus_plus(x, 6, np.random.default_rng(0))
    assert len(set(start)) == 6
    assert len({tuple(row) for row in x[start[:3]]}) == 3
    assert len(set(kmeans.plus_plus(x, 12, np.random.default_rng(0)))) == 12


@pytest.mark.parametrize("spherical", [False, True])
def test_a_gpu_finds_the_same_in_its_own_way(spherical, monkeypatch):
    x = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32)
    given = dict(num_clusters=7, iterations=4, init="random", spherical=spherical)
    expected = kmeans.fit(x, **given)
    monkeypatch.setattr(kmeans.rows, "on_gpu", lambda: True)
    monkeypatch.setattr(kmeans.lloyd, "_PRODUCTS", 7 * 1100)  # Blocks of 1,100 rows.
    found = kmeans.fit(x, **given)
    np.testing.assert_array_equal(found.assignments, expected.assignments)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-6)
    np.testing.assert_array_equal(found.centroids, kmeans.fit(x, **given).centroids)


@pytest.mark.parametrize("block_size", [1, 7, 50, 1024])
def test_blocks_change_nothing(block_size):
    x, centroids = _rows((101, 9)) + 3, _rows((13, 9), seed=1) + 3
    squares = np.square(x[:, None].astype(np.float64) - centroids).sum(-1)
    assignments, distances = kmeans.assign(x, centroids, block_size=block_size)
    np.testing.assert_array_equal(assignments, squares.argmin(1))
    np.testing.assert_allclose(distances, squares.min(1), rtol=1e-5)
    assert (assignments.dtype, distances.dtype) == (np.int32, np.float32)
    whole = kmeans.fit(x, num_clusters=5)
    blocks = kmeans.fit(x, num_clusters=5, block_size=block_size)
    np.testing.assert_allclose(blocks.centroids, whole.centroids, atol=1e-6)


def test_sums_of_many_rows(monkeypatch):
    x = _rows((1000, 4))
    whole = kmeans.fit(x, num_clusters=3)
    monkeypatch.setattr(lloyd, "_SUM_ROWS", 64)
    parts = kmeans.fit(x, num_clusters=3)
    np.testing.assert_allclose(parts.centroids, whole.centroids, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float64, tf.bfloat16, tf.float16])
def test_tensors_and_other_floats(dtype):
    x = tf.cast(_rows((50, 4)), dtype)
    found = kmeans.fit(x, num_clusters=4)
    same = kmeans.fit(tf.cast(x, tf.float32).numpy(), num_clusters=4)
    np.testing.assert_array_equal(found.centroids, same.centroids)


@pytest.mark.parametrize("whiten", [True, False])
def test_pca_matches_scikit_learn(whiten):
    x = _rows((400, 12)) @ _rows((12, 12), seed=1) + 5
    parts = [kmeans.Moments(12), kmeans.Moments(12)]
    parts[0].update(x[:150], block_size=64)
    parts[0].update(tf.constant(x[150:151]))
    parts[1].update(x[151:])
    both = types.SimpleNamespace(
        count=parts[0].count + parts[1].count,
        total=parts[0].total + parts[1].total,
        products=parts[0].products + parts[1].products,
    )
    found = kmeans.pca(both, components=5, whiten=whiten)
    theirs = sklearn.decomposition.PCA(5, whiten=whiten, svd_solver="full").fit(x)
    np.testing.assert_allclose(found.mean, theirs.mean_, rtol=1e-5)
    np.testing.assert_allclose(found.eigenvalues, theirs.explained_variance_, rtol=1e-5)
    ours = found.transform(x, block_size=90)
    expected = theirs.transform(x)
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=2e-4)
    largest = np.abs(found.projection).argmax(0)
    assert (found.projection[largest, range(5)] > 0).all()
    assert ours.dtype == np.float32


def test_whitening_does_not_blow_up_constant_directions():
    x = _rows((100, 6))
    x[:, 3:] = x[:, :3] @ _rows((3, 3), seed=1)  # Rank 3, but for rounding.
    moments = kmeans.Moments(6)
    moments.update(x)
    white = kmeans.pca(moments, components=6).transform(x)
    np.testing.assert_allclose(white.std(0, ddof=1)[:3], 1, rtol=1e-4)
    assert np.abs(white[:, 3:]).max() < 0.05


def test_wrong_arguments():
    x = _rows((10, 3))
    broken = x.copy()
    broken[[2, 5, 6], 1] = np.nan, np.inf, -np.inf
    moments = kmeans.Moments(3)
    moments.update(x)
    equal = kmeans.Moments(3)
    equal.update(np.full((10, 3), 0.1, np.float32))
    fit = kmeans.fit
    for wrong, sentence in (
        (lambda: fit(x, num_clusters=11), "num_clusters=11 .* 10 rows; give .* 1 to"),
        (lambda: fit(x, num_clusters=0), "num_clusters=0"),
        (lambda: fit(broken, num_clusters=2), r"in 3 of 10 rows, first in \[2, 5, 6\]"),
        (lambda: fit(x[0], num_clusters=2), r"x has shape \(3,\) .* expected"),
        (lambda: fit(x[:, :0], num_clusters=2), r"x has shape \(10, 0\)"),
        (lambda: fit(x.astype(int), num_clusters=2), "dtype int64, expected floats"),
        (lambda: fit(x, num_clusters=2, init="forgy"), "init='forgy' received"),
        (lambda: fit(x, num_clusters=2, init=x), r"init has shape \(10, 3\), .*\(2, 3"),
        (lambda: fit(x, num_clusters=2, init=broken[4:6]), "init has NaN"),
        (lambda: fit(x, num_clusters=2, empty="drop"), "empty='drop' received"),
        (
            lambda: fit(x, num_clusters=2, iterations=-1),
            "iterations=-1 received, expec",
        ),
        (lambda: fit(x, num_clusters=2, block_size=0), "block_size=0 received, expect"),
        (lambda: kmeans.assign(x, x[:, :2]), "x has 3 numbers .* centroids 2"),
        (lambda: kmeans.assign(x, broken), "centroids has NaN or infinity in 3"),
        (lambda: kmeans.assign(x, x, block_size=0), "block_size=0 receiv"),
        (lambda: kmeans.Moments(0), "dim=0 received, expected a wh"),
        (lambda: moments.update(broken), "rows has NaN or infinity in 3"),
        (lambda: moments.update(x[:, :2]), "Rows of 2 numbers .* Moments of 3"),
        (lambda: kmeans.pca(moments, components=4), "components=4 .* 10 rows of 3"),
        (lambda: kmeans.pca(equal, components=1), "All 10 rows are equal"),
        (
            lambda: kmeans.pca(moments, components=2).transform(x[:, :2]),
            "Rows of 2 numbers .* PCA of 3",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
    assert moments.count == 10


def test_unit_norm_of_plain_zero_tiny_and_huge_rows():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [3e-30, 4e-30], [3e30, -4e30]])
    expected = [[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.6, -0.8]]
    np.testing.assert_allclose(kmeans.unit_norm(rows), expected, rtol=1e-6)

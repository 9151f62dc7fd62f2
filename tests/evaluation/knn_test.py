import numpy as np
import pytest
from sklearn import neighbors

from tfssl.evaluation import features, knn


def made(values, labels):
    return features.Features(
        np.asarray(values, np.float32),
        np.asarray(labels, np.int64),
        np.arange(len(labels)),
    )


def clouds(num, classes=5, dim=8, seed=0):
    """Overlapping classes: many neighbourhoods disagree."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, num)
    return made(centers[labels] + 1.5 * rng.normal(size=(num, dim)), labels)


def slow_classes(train, test, k, temperature):
    """InstDisc section 3.4 as loops, in float64; classes by falling vote."""
    unit = [
        np.array([row / np.linalg.norm(row) for row in f.values.astype(np.float64)])
        for f in (train, test)
    ]
    ranked = []
    for query in unit[1]:
        similarity = [float(query @ row) for row in unit[0]]
        order = sorted(range(len(similarity)), key=lambda i: -similarity[i])[:k]
        votes = {label: 0.0 for label in sorted(set(train.labels))}
        for i in order:
            votes[train.labels[i]] += np.exp(similarity[i] / temperature)
        ranked.append(sorted(votes, key=lambda label: -votes[label]))
    return np.array(ranked)


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equals_the_loop_form(k, temperature):
    train, test = clouds(60), clouds(40, seed=1)
    expected = slow_classes(train, test, k, temperature)
    found = knn.predict(train, test, k=k, temperature=temperature, top=2)
    voted = expected[:, :2] if k > 1 else expected[:, :1]
    np.testing.assert_array_equal(found[:, : voted.shape[1]], voted)
    for top in (1, 2) if k > 1 else (1,):
        hits = [label in row[:top] for label, row in zip(test.labels, expected)]
        value = knn.accuracy(train, test, k=k, temperature=temperature, top=top)
        assert value == pytest.approx(np.mean(hits))


def test_equals_scikit_learn():
    train, test = clouds(300), clouds(100, seed=1)
    reference = neighbors.KNeighborsClassifier(
        n_neighbors=20,
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / 0.1),
    ).fit(train.values, train.labels)
    expected = reference.score(test.values, test.labels)
    assert 0.3 < expected < 0.95  # Neither trivial nor hopeless.
    assert knn.accuracy(train, test, k=20, temperature=0.1) == pytest.approx(expected)


def test_vote_by_hand():
    # Query (1, 0). Class 0 has one neighbour of similarity 1, class 1 two of
    # similarity 0.6: exp(1/t) against 2 exp(0.6/t). Equal at t = 0.4 / ln 2 = 0.577.
    train = made([[1, 0], [0.6, 0.8], [0.6, -0.8]], [0, 1, 1])
    query = made([[1, 0]], [0])
    assert knn.predict(train, query, k=3, temperature=0.5).tolist() == [[0]]
    assert knn.predict(train, query, k=3, temperature=0.65).tolist() == [[1]]


@pytest.mark.parametrize("block_size", [1, 3, 7, 64, 1000])
def test_blocks_do_not_change_the_result(block_size):
    train, test = clouds(64), clouds(33, seed=2)
    whole = knn.nearest(train.values, test.values, k=9)
    rows, similarity = knn.nearest(
        train.values, test.values, k=9, block_size=block_size
    )
    np.testing.assert_array_equal(rows, whole[0])
    np.testing.assert_allclose(similarity, whole[1], atol=1e-6)
    np.testing.assert_array_equal(
        knn.predict(train, test, k=9, block_size=block_size),
        knn.predict(train, test, k=9),
    )


def test_equal_similarities_go_to_the_earlier_image():
    bank = np.tile([[1.0, 0.0]], (10, 1))
    for block_size in (2, 3, 100):
        rows, _ = knn.nearest(bank, bank[:1], k=4, block_size=block_size)
        assert rows.tolist() == [[0, 1, 2, 3]]


def test_scale_of_a_row_does_not_matter_and_zero_rows_are_safe():
    train, test = clouds(50), clouds(20, seed=1)
    scaled = made(train.values * np.linspace(0.1, 9, 50)[:, None], train.labels)
    zero = np.zeros((1, 8))
    np.testing.assert_array_equal(
        knn.predict(train, test, k=5), knn.predict(scaled, test, k=5)
    )
    rows, similarity = knn.nearest(train.values, zero, k=3)
    np.testing.assert_array_equal(similarity, [[0, 0, 0]])
    assert knn.predict(train, made(zero, [0]), k=3).shape == (1, 1)


def test_a_tiny_temperature_stays_finite():
    # exp(1 / 0.001) is beyond float64; the nearest neighbour must decide.
    train, test = clouds(50), clouds(20, seed=1)
    np.testing.assert_array_equal(
        knn.predict(train, test, k=20, temperature=1e-3),
        knn.predict(train, test, k=1),
    )


def test_labels_need_not_be_dense():
    train, test = clouds(100), clouds(30, seed=1)
    far = made(train.values, train.labels * 1000 + 7)
    np.testing.assert_array_equal(
        knn.predict(far, test, k=5), knn.predict(train, test, k=5) * 1000 + 7
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0}, "k=0"),
        ({"k": 11}, "k=11 neighbours were asked of 10"),
        ({"temperature": 0.0}, "temperature > 0, got 0.0"),
        ({"top": 0}, "top=0"),
        ({"block_size": 0}, "block_size >= 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        knn.accuracy(clouds(10), clouds(4), **{"k": 3, **arguments})


def test_missing_labels_and_widths():
    train, test = clouds(10), clouds(4)
    unlabelled = made(test.values, [-1, 0, 1, -1])
    with pytest.raises(ValueError, match="2 of 4 test images have none"):
        knn.accuracy(train, unlabelled, k=3)
    with pytest.raises(ValueError, match="2 of 4 training images have none"):
        knn.accuracy(unlabelled, train, k=3)
    with pytest.raises(ValueError, match="8 numbers per image and the queries 5"):
        knn.accuracy(train, made(test.values[:, :5], test.labels), k=3)


def test_queries_of_nan_have_no_class():
    queries = clouds(4)
    queries.values[2] = np.nan
    with pytest.raises(ValueError, match="The kNN needs finite features, .* of 1 of 4"):
        knn.predict(clouds(9), queries)

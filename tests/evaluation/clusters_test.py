import collections
import math

import numpy as np
import pytest

from tfssl.evaluation import clusters, features


def slow_nmi(a, b):
    """The definition in plain loops: entropies of counted labels, in nats."""

    def entropy(values):
        counts = collections.Counter(values).values()
        return -sum(c / len(a) * math.log(c / len(a)) for c in counts)

    a, b = list(map(int, a)), list(map(int, b))
    mutual = entropy(a) + entropy(b) - entropy(list(zip(a, b)))
    return mutual / ((entropy(a) + entropy(b)) / 2)


def slow_purity(assignments, labels):
    members = collections.defaultdict(list)
    for cluster, label in zip(assignments, labels):
        members[cluster].append(label)
    right = (collections.Counter(m).most_common(1)[0][1] for m in members.values())
    return sum(right) / len(labels)


@pytest.mark.parametrize("clusters_, classes, n", [(2, 2, 9), (7, 3, 200), (60, 9, 90)])
def test_equal_the_plain_forms(clusters_, classes, n):
    rng = np.random.default_rng(n)
    labels = rng.integers(0, classes, n) * 5  # Not dense.
    assignments = (labels + rng.integers(0, clusters_, n)).astype(np.int32)
    assert clusters.nmi(assignments, labels) == pytest.approx(
        slow_nmi(assignments, labels)
    )
    assert clusters.nmi(labels, assignments) == pytest.approx(
        slow_nmi(assignments, labels)
    )
    assert clusters.purity(assignments, labels) == pytest.approx(
        slow_purity(assignments, labels)
    )


def test_by_hand():
    # Clusters {0, 0, 1} and {1, 1}: 2 + 2 of 5 images are in the majority.
    assert clusters.purity([3, 3, 3, 8, 8], [0, 0, 1, 1, 1]) == pytest.approx(0.8)
    # H(a) = H(b) = log 2 and they are independent; then each decides the other.
    assert clusters.nmi([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert clusters.nmi([0, 0, 1, 1], [9, 9, 4, 4]) == 1
    # H = (log 4, log 2), I = log 2: log 2 / (1.5 log 2); the geometric mean has 0.71.
    assert clusters.nmi([0, 1, 2, 3], [0, 0, 1, 1]) == pytest.approx(2 / 3)


def test_ends_of_the_range():
    rng = np.random.default_rng(0)
    same = rng.integers(0, 1000, 5000)
    renamed = rng.permutation(1000)[same]
    assert clusters.nmi(same, renamed) == 1.0  # At most: no 1 + 2e-16.
    assert clusters.purity(same, renamed) == 1.0
    assert clusters.nmi([0, 0, 0], [5, 5, 5]) == 1.0
    assert clusters.nmi([0, 0, 0], [1, 2, 3]) == 0.0
    assert clusters.purity([0, 1, 2], [4, 4, 4]) == 1.0


def rays(per_class, classes=4, dim=8):
    """Rows along one direction per class: their lengths say nothing."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes) * 7, per_class)
    directions = rng.normal(size=(classes, dim))
    noise = 0.05 * rng.normal(size=(len(labels), dim))
    lengths = rng.uniform(0.01, 100, (len(labels), 1))
    values = (directions[labels // 7] + noise) * lengths
    return features.Features(values.astype(np.float32), labels, np.arange(len(labels)))


def test_clusters_of_features_find_the_directions():
    found = clusters.evaluate(rays(30), 4)
    assert (found.purity, found.nmi) == (1.0, 1.0)
    assert found.protocol == (
        "k-means of unit-norm features (8), 4 clusters, k-means++ start, 50 updates, "
        "120 validation images of 4 classes"
    )
    # Two clusters for four classes of equal size: two whole classes are right.
    assert clusters.evaluate(rays(30), 2).purity == pytest.approx(0.5, abs=0.01)
    # An image each: pure, and I = H(class) = log 4, H(cluster) = log 120.
    found = clusters.evaluate(rays(30), 120)
    assert found.purity == 1.0
    expected = 2 * math.log(4) / (math.log(4) + math.log(120))
    assert found.nmi == pytest.approx(expected)
    assert clusters.evaluate(rays(30), 9) == clusters.evaluate(rays(30), 9)


def test_collapsed_features_leave_clusters_empty():
    bank = rays(3)
    same = features.Features(np.ones_like(bank.values), bank.labels, bank.index)
    found = clusters.evaluate(same, 4)
    assert (found.purity, found.nmi) == (0.25, 0.0)
    assert "4 clusters (3 empty)" in found.protocol


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: clusters.nmi([0, 1], [0, 1, 2]), "of 2 and 3 images received"),
        (lambda: clusters.nmi([], []), r"a has shape \(0,\), expected one number"),
        (lambda: clusters.nmi([[0]], [0]), r"a has shape \(1, 1\)"),
        (lambda: clusters.nmi([0], [0.5]), "b is float64, expected integers"),
        (lambda: clusters.purity([0, 1], [-1, 1]), "1 of 2 images have none"),
        (lambda: clusters.evaluate(rays(1), 5), "5 clusters were asked of 4 rows"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

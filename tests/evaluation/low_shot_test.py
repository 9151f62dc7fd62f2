import numpy as np
import pytest

from tfssl.data import labels as labels_lib
from tfssl.evaluation import features, linear_probe, low_shot


def clouds(per_class, seed, classes=4, dim=6):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.tile(np.arange(classes), per_class)
    values = centers[labels] + rng.normal(size=(len(labels), dim))
    return features.Features(
        values.astype(np.float32), labels.astype(np.int64), np.arange(len(labels))
    )


@pytest.fixture(scope="module")
def train():
    return clouds(40, seed=0)


@pytest.fixture(scope="module")
def test():
    return clouds(40, seed=1)


def test_rows_are_the_draws_put_together(train, test):
    rows = low_shot.evaluate(
        train, test, per_class=(1, 5), fractions=(0.1, 1.0), draws=3, seed=7, l2=0.1
    )
    assert [row.labels for row in rows] == [
        "1 per class",
        "5 per class",
        "10 %",
        "100 %",
    ]
    assert [row.draws for row in rows] == [3, 3, 3, 1]
    expected = []
    for draw in range(3):
        chosen = labels_lib.select(train.labels, per_class=5, seed=7 + draw)
        assert len(chosen.indices) == 20
        part = train.take(chosen.indices)
        expected.append(linear_probe.fit(part, test, l2=0.1).accuracy)
    assert len(set(expected)) > 1  # The draws differ, or the mean says nothing.
    assert rows[1].accuracies == tuple(expected)
    assert rows[1].accuracy == pytest.approx(np.mean(expected))
    assert rows[1].std == pytest.approx(np.std(expected))
    assert rows[3].accuracy == linear_probe.fit(train, test, l2=0.1).accuracy
    assert rows[3].std == 0
    assert rows[1].selections[0].sha256[:8] in rows[1].protocol


def test_the_order_of_the_features_does_not_matter(train, test):
    arguments = {"per_class": (2,), "fractions": (), "draws": 2, "l2": 0.1}
    shuffled = train.take(np.random.default_rng(0).permutation(len(train)))
    (first,) = low_shot.evaluate(train, test, **arguments)
    (second,) = low_shot.evaluate(shuffled, test, **arguments)
    assert first.accuracies == second.accuracies


def test_impossible_budgets_and_missing_labels(train, test):
    with pytest.raises(ValueError):
        low_shot.evaluate(train, test, per_class=(41,), fractions=())
    bare = features.Features(train.values, np.full(160, -1), train.index)
    with pytest.raises(ValueError, match="160 of 160 training images have none"):
        low_shot.evaluate(bare, test)


def test_budget_names():
    assert low_shot.budget_name(fraction=0.001) == "0.1 %"
    assert low_shot.budget_name(fraction=1.0) == "100 %"
    assert low_shot.budget_name(per_class=16) == "16 per class"

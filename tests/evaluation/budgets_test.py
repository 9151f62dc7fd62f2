import numpy as np
import pytest

from tfssl.data import labels as labels_lib
from tfssl.evaluation import budgets, features, judging, linear_probe


def clouds(per_class, seed, classes=4, dim=6):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.tile(np.arange(classes), per_class)
    values = centers[labels] + rng.normal(size=(len(labels), dim))
    return features.Features(
        values.astype(np.float32), labels.astype(np.int64), np.arange(len(labels))
    )


@pytest.fixture(scope="module")
def subject():
    bank, queries = clouds(40, seed=0), clouds(40, seed=1)
    return judging.Subject("made", bank, queries, judging.Setting(*[None] * 4))


def test_the_share_of_a_name():
    for fraction, percent in ((0.01, 1.0), (0.125, 12.5), (1, 100.0)):
        name = budgets.budget_name(fraction=fraction)
        assert budgets.share(name) == percent
    for name in (budgets.budget_name(per_class=5), "list 10 %.txt", "none", "a %"):
        assert budgets.share(name) is None


def test_rows_are_the_draws_put_together(subject):
    train, test = subject.bank, subject.queries
    drawn = budgets.drawn(
        train, per_class=(1, 5), fractions=(0.1, 1.0), draws=3, seed=7
    )
    assert [budget.name for budget in drawn] == [
        "1 per class",
        "5 per class",
        "10 %",
        "100 %",
    ]
    rows = list(linear_probe.Linear().rows(subject, drawn))
    assert [row["labels"] for row in rows] == [budget.name for budget in drawn]
    assert [row["draws"] for row in rows] == [3, 3, 3, 1]
    expected = []
    for draw in range(3):
        chosen = labels_lib.select(train.labels, per_class=5, seed=7 + draw)
        assert len(chosen.indices) == 20
        part = train.take(chosen.indices)
        expected.append(linear_probe.fit(part, test).accuracy)
    assert len(set(expected)) > 1  # The draws differ, or the mean says nothing.
    assert rows[1]["accuracy"] == pytest.approx(np.mean(expected))
    assert rows[1]["std"] == pytest.approx(np.std(expected))
    assert rows[3]["accuracy"] == linear_probe.fit(train, test).accuracy
    assert rows[3]["std"] == 0
    assert drawn[1].selections[0].sha256[:8] in rows[1]["protocol"]


def test_banks_are_those_of_the_first_draws(subject):
    one, every = budgets.drawn(
        subject.bank, per_class=(1,), fractions=(1.0,), draws=3, seed=0
    )
    assert [len(bank) for bank in one.banks(subject)] == [4, 4, 4]
    (first,) = one.banks(subject, draws=1)
    np.testing.assert_array_equal(first.index, one.selections[0].indices)
    (whole,) = every.banks(subject)
    assert whole is subject.bank  # Not a copy, which would be large.


def test_impossible_budgets_and_missing_labels(subject):
    train = subject.bank
    with pytest.raises(ValueError, match="per_class=41 received, but class 0 has 40"):
        budgets.drawn(train, per_class=(41,))
    bare = features.Features(train.values, np.full(160, -1), train.index)
    with pytest.raises(ValueError, match="there are no labels"):
        budgets.drawn(bare, per_class=(1,))


def test_budget_names():
    assert budgets.budget_name(fraction=0.001) == "0.1 %"
    assert budgets.budget_name(fraction=1.0) == "100 %"
    assert budgets.budget_name(per_class=16) == "16 per class"

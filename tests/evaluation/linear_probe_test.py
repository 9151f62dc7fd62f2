import tracemalloc

import numpy as np
import pytest
from scipy import optimize, special

from tfssl import kmeans
from tfssl.evaluation import features, linear_probe


def made(values, labels):
    return features.Features(
        np.asarray(values, np.float32),
        np.asarray(labels, np.int64),
        np.arange(len(labels)),
    )


def clouds(per_class, classes=4, dim=6, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), per_class)
    return made(
        3 + centers[labels] + noise * rng.normal(size=(len(labels), dim)), labels
    )


def slow_accuracy(train_x, train_y, test_x, test_y, l2):
    """The stated objective, minimised by SciPy from its plain formula."""
    classes = train_y.max() + 1
    dim = train_x.shape[1]

    def objective(flat):
        weights = flat[: dim * classes].reshape(dim, classes)
        logits = train_x @ weights + flat[dim * classes :]
        losses = (
            special.logsumexp(logits, axis=1) - logits[np.arange(len(logits)), train_y]
        )
        return losses.mean() + l2 / 2 * (weights**2).sum()

    flat = optimize.minimize(objective, np.zeros(classes * (dim + 1)), tol=1e-9).x
    logits = test_x @ flat[: dim * classes].reshape(dim, classes)
    return ((logits + flat[dim * classes :]).argmax(1) == test_y).mean()


@pytest.mark.parametrize("scaling", ["unit", "standard"])
@pytest.mark.parametrize("l2", [1e-3, 0.3])
def test_equals_the_stated_objective(scaling, l2):
    train, test = clouds(15, noise=1.5), clouds(50, seed=1, noise=1.5)
    x, y = train.values.astype(float), test.values.astype(float)
    if scaling == "standard":
        x, y = (x - x.mean(0)) / x.std(0), (y - x.mean(0)) / x.std(0)
    else:  # Length sqrt(dim), so that a typical entry is 1; no centring here.
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(6)
        y = y / np.linalg.norm(y, axis=1, keepdims=True) * np.sqrt(6)
    expected = slow_accuracy(x, train.labels, y, test.labels, l2)
    found = linear_probe.fit(train, test, l2=l2, scaling=scaling)
    assert 0.35 < expected < 0.95
    # One test image of 200 may sit on the border of the two solutions.
    assert found.accuracy == pytest.approx(expected, abs=0.0051)
    assert found.converged and found.l2 == l2


def test_sweep_is_deterministic_and_its_choice_gives_the_same_number():
    train, test = clouds(20), clouds(50, seed=1)
    first = linear_probe.fit(train, test)
    assert linear_probe.fit(train, test) == first
    assert first.l2 in linear_probe.SWEEP
    assert linear_probe.fit(train, test, l2=first.l2).accuracy == first.accuracy
    assert "unit-norm features (6)" in first.protocol
    assert "80 train / 200 test" in first.protocol
    assert f"l2 {first.l2:.2g} of 15" in first.protocol


def test_sweep_prefers_a_strong_penalty_under_noise():
    # 40 dimensions without any signal, 30 images: the weakest penalty fits noise.
    rng = np.random.default_rng(0)
    train = made(rng.normal(size=(30, 40)), np.arange(30) % 3)
    strong = linear_probe.fit(train, train)
    assert strong.l2 >= 0.1
    # One strong direction, no noise: a weak one is right.
    labels = np.arange(60) % 2
    easy = made(np.stack([labels * 2.0 - 1, np.ones(60)], axis=1), labels)
    assert linear_probe.fit(easy, easy).l2 <= 1e-4


def test_the_test_set_does_not_choose():
    train = clouds(20)
    found = [linear_probe.fit(train, clouds(9, seed=s)).l2 for s in (1, 2)]
    assert found[0] == found[1]


def test_one_label_per_class_uses_the_fixed_penalty():
    found = linear_probe.fit(clouds(1), clouds(50, seed=1))
    assert found.l2 == linear_probe.FIXED_L2
    assert "fixed (a class has one label)" in found.protocol
    assert found.accuracy > 0.3  # Chance is 0.25.


def test_constant_features_and_zero_rows_are_safe():
    train, test = clouds(10), clouds(10, seed=1)
    values = np.concatenate([train.values, np.full((40, 1), 7.0)], axis=1)
    values[3] = 0
    wide = made(values, train.labels)
    for scaling in ("unit", "standard"):
        found = linear_probe.fit(
            wide,
            made(np.pad(test.values, ((0, 0), (0, 1))), test.labels),
            l2=0.1,
            scaling=scaling,
        )
        assert np.isfinite(found.accuracy)


def test_a_small_feature_counts_beside_a_large_one():
    """Standardised, whatever their sizes are."""
    train, test = (clouds(20, classes=2, dim=1, noise=0.1, seed=s) for s in (0, 1))
    noise = np.random.default_rng(2).normal(size=(2, 40, 1))
    found = [
        linear_probe.fit(
            *(
                made(np.concatenate([1e-2 * x.values, size * n], 1), x.labels)
                for x, n in zip((train, test), noise)
            ),
            l2=0.1,
            scaling="standard",
        ).accuracy
        for size in (1.0, 1e6)
    ]
    assert found[0] == found[1] > 0.7


def test_labels_need_not_be_dense_and_unknown_test_classes_count_as_wrong():
    train, test = clouds(20), clouds(20, seed=1)
    plain = linear_probe.fit(train, test, l2=0.1)
    far = linear_probe.fit(
        made(train.values, train.labels * 10 + 3),
        made(test.values, test.labels * 10 + 3),
        l2=0.1,
    )
    assert far.accuracy == plain.accuracy
    assert linear_probe.fit(train, made(test.values, [77] * 80), l2=0.1).accuracy == 0


def test_too_few_iterations_are_reported():
    found = linear_probe.fit(clouds(20), clouds(5), l2=1e-6, max_iter=2)
    assert not found.converged
    assert "stopped at 2 iterations" in found.protocol


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"l2": 0.0}, "l2 > 0 .*got 0.0"),
        ({"sweep": ()}, "sweep values > 0"),
        ({"validation_fraction": 1.0}, "got 1.0"),
        ({"scaling": "none"}, "Unknown scaling 'none'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_probe.fit(clouds(5), clouds(5), **arguments)


def test_bad_labels():
    good = clouds(5)
    with pytest.raises(ValueError, match="20 of 20 training images have none"):
        linear_probe.fit(made(good.values, [-1] * 20), good)
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe.fit(made(good.values, [3] * 20), good)


@pytest.mark.parametrize("scaling", ["unit", "standard"])
def test_features_are_copied_once_in_float64(scaling):
    train, test = clouds(4000, dim=64), clouds(500, dim=64, seed=1)
    once = 2 * (train.values.nbytes + test.values.nbytes)
    for l2 in (0.1, None):  # Nor are held-out images another copy.
        tracemalloc.start()
        linear_probe.fit(train, test, l2=l2, scaling=scaling, sweep=(0.1,), max_iter=2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.4 * once


@pytest.mark.parametrize("scaling", ["unit", "standard"])
def test_scaled_features_are_those_of_the_plain_formulas(scaling):
    values = 3 + np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
    values[:, 4] = 7
    rows = np.random.default_rng(1).permutation(3000)
    rows = rows[:2500], rows[2500:]
    found = linear_probe._scaled(scaling, *((values, some) for some in rows))
    train, test = (values[some].astype(np.float64) for some in rows)
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[4] = 1
    if scaling == "unit":
        train, test = (
            kmeans.unit_norm(x).astype(np.float64) * np.sqrt(5) for x in (train, test)
        )
        mean, std = train.mean(axis=0), 1
    for some, expected in zip(found, (train, test)):
        np.testing.assert_array_equal(some, (expected - mean) / std)

import dataclasses

import numpy as np
import pytest
from sklearn import linear_model

from tfssl.evaluation import dense_probe, features


def made(values, labels):
    return features.Features(
        np.asarray(values, np.float32),
        np.asarray(labels, np.int64),
        np.arange(len(values)),
    )


def blobs(n=90, dim=6, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centers = 1.5 * np.eye(3, dim)
    values = centers[labels] + spread * rng.normal(size=(n, dim))
    return made(7 + [1, 5, 0.1, 1, 1, 2] * values, labels)


def xor(n=400, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (n, 2))
    return made(values, values[:, 0] * values[:, 1] > 0)


def test_the_linear_probe_finds_the_minimum_that_scikit_learn_finds():
    train, test, l2 = blobs(), blobs(300, seed=1), 0.05
    mean, std = train.values.mean(0), train.values.std(0)
    model = linear_model.LogisticRegression(C=1 / (l2 * len(train)), tol=1e-8)
    model.fit((train.values - mean) / std, train.labels)
    right = model.predict((test.values - mean) / std) == test.labels
    trained = dense_probe._Trainer(
        train,
        np.arange(len(train)),
        np.arange(3),
        [l2, 10.0],
        units=(),
        epochs=1500,
        min_steps=0,
        batch_size=len(train),
        rate=0.05,
        seed=0,
        verbose=0,
    )
    assert list(trained.parts()) == list(range(1, 21))
    accuracy, loss = trained.scores(test, np.arange(len(test)))
    logs = model.predict_log_proba((test.values - mean) / std)
    expected = -logs[np.arange(len(test)), test.labels].mean()
    np.testing.assert_allclose(loss[0], expected, rtol=1e-3)
    assert abs(accuracy[0] - right.mean()) <= 1 / len(test)
    assert loss[1] > loss[0] + 0.1  # The other penalty's network is another.


def test_only_an_mlp_solves_what_no_line_divides():
    train, test = xor(), xor(seed=1)
    linear = dense_probe.fit(train, test, min_steps=400)
    mlp = dense_probe.fit(train, test, units=(32,), min_steps=400, rate=0.05)
    assert linear.accuracy < 0.65
    assert mlp.accuracy > 0.95
    assert mlp.protocol.startswith("MLP probe (2 → 32 → 2, ReLU), Adam")
    assert linear.protocol.startswith("linear probe, Adam, standardised features (2)")
    assert "400 train / 400 test images" in mlp.protocol


def test_penalty_and_time_are_chosen_on_held_out_training_images():
    rng = np.random.default_rng(0)
    train = blobs(60, spread=1.0)
    noise = rng.normal(size=(60, 200))
    train = made(np.concatenate([train.values, noise], 1), train.labels)
    test = blobs(300, seed=1, spread=1.0)
    test = made(
        np.concatenate([test.values, rng.normal(size=(300, 200))], 1), test.labels
    )
    options = {"l2s": (3.0, 1e-4), "min_steps": 200}
    found = dense_probe.fit(train, test, **options)
    assert [entry[0] for entry in found.validation] == [3.0, 1e-4]
    assert found.l2 == max(found.validation, key=lambda entry: entry[2])[0]
    assert f"l2 {found.l2:g} by accuracy on 12 held-out images" in found.protocol
    assert f"{found.steps} of 200 steps" in found.protocol
    # Other test images change the score and nothing else.
    wrong = dataclasses.replace(test, labels=(test.labels + 1) % 3)
    other = dense_probe.fit(train, wrong, **options)
    for name in ("l2", "steps", "validation"):
        assert getattr(found, name) == getattr(other, name)
    assert other.accuracy < found.accuracy


def test_the_same_seed_gives_the_same_result():
    train, test = blobs(), blobs(seed=1)
    options = {"units": (8,), "min_steps": 40, "batch_size": 16}
    first = dense_probe.fit(train, test, **options)
    assert dense_probe.fit(train, test, **options) == first
    others = [dense_probe.fit(train, test, seed=seed, **options) for seed in (1, 2)]
    assert any(other.validation != first.validation for other in others)


def test_one_image_per_class_holds_nothing_out():
    train, test = blobs(3), blobs(30, seed=1)
    found = dense_probe.fit(train, test, units=4, min_steps=20)
    assert (found.l2, found.steps, found.validation) == (0.01, 30, ())
    assert "all steps fixed (a class has one label)" in found.protocol


def test_constant_features_and_unknown_classes_do_no_harm():
    train, test = blobs(), blobs(90, seed=1)
    constant = np.full((90, 1), 3.0)
    wide = [made(np.concatenate([f.values, constant], 1), f.labels)
            for f in (train, test)]  # fmt: skip
    found = dense_probe.fit(*wide, min_steps=100)
    assert found.accuracy > 0.5
    some = dataclasses.replace(
        wide[1], labels=np.where(test.labels == 2, 9, test.labels)
    )
    less = dense_probe.fit(wide[0], some, min_steps=100)
    known = test.labels != 2
    again = dense_probe.fit(wide[0], wide[1].take(known), min_steps=100)
    assert less.accuracy == pytest.approx(again.accuracy * known.mean())


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"units": (8, 0)}, "units=0 received for the probe, expected a whole number"),
        ({"units": "wide"}, "units='wide' received for the probe"),
        ({"units": 1.5}, "units=1.5 received"),
        ({"epochs": 0}, "epochs=0 received .* of at least 1"),
        ({"min_steps": -1}, "min_steps=-1 received .* of at least 0"),
        ({"batch_size": 0}, "batch_size=0 received"),
        ({"l2s": ()}, r"l2s=\[\] received for the probe, expected finite numbers of"),
        ({"l2s": (0.1, -1)}, "l2s=.*-1.* received"),
        ({"l2s": float("nan")}, r"l2s=\[nan\] received"),
        ({"rate": 0}, r"rate=\[0\] received for the probe, expected .* above 0"),
        (
            {"validation_fraction": 1.0},
            "validation_fraction=.* a number in .0, 1.",
        ),
    ],
)
def test_bad_arguments(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dense_probe.fit(blobs(), blobs(), **changes)


def test_bad_features():
    good = blobs()
    one = dataclasses.replace(good, labels=np.zeros(90, np.int64))
    with pytest.raises(ValueError, match="The MLP probe needs at least two classes"):
        dense_probe.fit(one, good, units=4)
    bare = dataclasses.replace(good, labels=np.full(90, -1))
    with pytest.raises(ValueError, match="The linear probe needs labels"):
        dense_probe.fit(bare, good)
    broken = dataclasses.replace(good, values=good.values * np.nan)
    with pytest.raises(ValueError, match="The linear probe needs finite features"):
        dense_probe.fit(good, broken)


def test_a_network_of_nan_is_not_chosen():
    """It names the first class, which may be the most frequent one."""
    scores = [(np.array([0.9, 0.5]), np.array([np.nan, 1.0]))]
    l2, part, tried = dense_probe._choose([0.1, 0.2], [10], scores)
    assert (l2, part) == (0.2, 1)
    assert tried == ((0.1, 10, -1.0), (0.2, 10, 0.5))

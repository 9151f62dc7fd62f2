import json

import pytest

from tests.tasks.evaluate_test import evaluated
from tfssl import processor
from tfssl.evaluation import features

# 80 images of 64 numbers, 3 times (the L-BFGS probe), and of 8 features each.
PIXELS, FEATURES = 3 * 80 * 64 * 4, 3 * 80 * 8 * 4


@pytest.fixture
def free(monkeypatch):
    """A function that sets the free memory, in bytes."""

    def set_free(count):
        monkeypatch.setattr(processor, "free_memory", lambda: count)

    return set_free


@pytest.fixture
def no_features(monkeypatch):
    """Nothing is computed."""

    def refuse(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr(features, "_parts", refuse)


def test_pixels_that_nobody_asked_for_are_left_out(run, free, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise AssertionError("raw pixels were computed")

    free(2 * PIXELS - 4)
    monkeypatch.setattr(features, "raw_pixels", refuse)
    rows = evaluated(run, budgets=("100%",), probes=("linear",))
    kinds = {row["features"] for row in rows}
    assert kinds == {"pre-trained", "random encoder", "supervised"}
    (line,) = [message for message in caplog.messages if "raw pixels" in message]
    assert line.startswith("The raw pixels of 80 images of 8 x 8 x 1 take 5.72e-05 GiB")
    assert "more than half of the 0.000114 GiB that are free" in line
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["left_out"] == {"raw_pixels": line}
    assert line in (run / "report.html").read_text()


def test_pixels_that_fit_are_judged(run, free, caplog):
    free(2 * PIXELS)
    rows = evaluated(run, budgets=("100%",), probes=("linear",))
    assert "raw pixels" in {row["features"] for row in rows}
    assert not [message for message in caplog.messages if "raw pixels" in message]
    assert "left_out" not in json.loads((run / "evaluation.json").read_text())
    # Without copies in float64 they take a third.
    free(2 * PIXELS // 3)
    rows = evaluated(run, budgets=("100%",), probes=("knn",))
    assert "raw pixels" in {row["features"] for row in rows}


def test_pixels_asked_for_that_do_not_fit_are_refused(run, free, no_features):
    free(FEATURES + PIXELS - 4)
    with pytest.raises(ValueError, match=r"baselines=raw_pixels .*5.72e-05 GiB are f"):
        evaluated(run, budgets=("100%",), probes=("linear",), baselines=["raw_pixels"])


def test_copies_of_a_clustering_count(run, free, no_features):
    """It makes three of the features of the 40 test images."""
    need = (80 + 3 * 40) * 8 * 4
    given = {"probes": ("knn",), "clusters": 2, "baselines": ()}
    free(need - 4)
    with pytest.raises(ValueError, match="features of 80 images .* give fewer images"):
        evaluated(run, budgets=("100%",), **given)
    free(need)
    with pytest.raises(AssertionError, match="features were computed"):
        evaluated(run, budgets=("100%",), **given)


def test_features_that_do_not_fit_are_refused(run, free, no_features):
    free(FEATURES - 4)
    with pytest.raises(ValueError, match="features of 80 images .* give fewer images"):
        evaluated(run, budgets=("100%",), probes=("linear",), baselines=())

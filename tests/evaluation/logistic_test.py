import numpy as np
import pytest
import sklearn.exceptions
import sklearn.linear_model
from scipy import optimize

from tfssl import kmeans
from tfssl.evaluation import features, linear_probe, logistic


def rows(count, classes, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, dim))
    return centres[labels] + rng.normal(size=(count, dim)), 3 * labels + 1


@pytest.mark.parametrize("classes", [2, 4])
def test_fits_are_those_of_scikit_learn(classes, monkeypatch):
    monkeypatch.setattr(logistic, "_LOGITS", 1)  # Blocks of 1,024 rows.
    (values, labels), (others, _) = rows(1500, classes), rows(40, classes, seed=1)
    ours = logistic.LogisticRegression(max_iter=500)
    theirs = sklearn.linear_model.LogisticRegression(max_iter=500, warm_start=True)
    for penalty in (1.0, 1e-3):  # The second starts from the first.
        for model in (ours, theirs):
            model.C = 1 / (penalty * len(values))
            model.fit(values, labels)
        expected = theirs.predict_log_proba(others)
        np.testing.assert_allclose(ours.predict_log_proba(others), expected, atol=1e-5)
        np.testing.assert_array_equal(ours.predict(others), theirs.predict(others))
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)


def test_too_few_iterations_are_said():
    model = logistic.LogisticRegression(max_iter=1)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        model.fit(*rows(60, 4))


def test_the_probe_takes_it_where_there_is_a_gpu(monkeypatch):
    train, test = (
        features.Features(
            values.astype(np.float32), labels.astype(np.int64), np.arange(len(labels))
        )
        for values, labels in (rows(300, 4), rows(200, 4, seed=1))
    )
    expected = linear_probe.fit(train, test)
    monkeypatch.setattr(kmeans, "on_gpu", lambda: True)
    monkeypatch.delattr(sklearn.linear_model, "LogisticRegression")
    assert linear_probe.fit(train, test) == expected


def test_a_search_that_failed_is_said(monkeypatch):
    def failed(*args, **kwargs):
        return optimize.OptimizeResult(x=found.x, status=2, message="ABNORMAL")

    found = optimize.minimize(lambda x: (x @ x, 2 * x), np.zeros(24), jac=True)
    monkeypatch.setattr(logistic.scipy.optimize, "minimize", failed)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="ABNORMAL"):
        logistic.LogisticRegression(max_iter=9).fit(*rows(60, 4))

"""Results of an encoder do not outlive it in its run's folder."""

import json
import shutil

import pytest

from tests.tasks import evaluate_test
from tests.tasks import pretrain_test as small
from tfssl.tasks import pretrain, results

SETTINGS = small.TINY | {"epochs": 2}


@pytest.fixture(scope="module")
def evaluated_run(run, tmp_path_factory):
    """A finished run with its evaluation, not to be changed."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, out)
    small_evaluation(out)
    return out


@pytest.fixture
def judged(evaluated_run, tmp_path):
    """Its copy, and files with the names of all results."""
    out = tmp_path / "run"
    shutil.copytree(evaluated_run, out)
    for name in results.FILES:
        if not (out / name).exists():
            (out / name).write_text("of the weights before")
    (out / "labels" / "mine.json").write_text("{}")
    return out


def small_evaluation(judged_run, **changes):
    settings = {"budgets": ("3",), "draws": 1, "probes": ("knn",), "baselines": ()}
    return evaluate_test.evaluated(judged_run, **settings | changes)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_results_of_the_weights_before_go_when_the_training_goes_on(judged):
    assert "retrieval.json" in results.FILES
    assert set(results.FILES) <= names(judged)
    assert names(judged / "labels") == {"3_per_class-0.json", "mine.json"}
    changes = {"epochs": 3, "allow_changes": ("epochs",)}
    pretrain.pretrain(small.images(), str(judged), **SETTINGS | changes)
    assert not set(results.FILES) & names(judged)
    assert {"encoder.keras", "metrics.jsonl", "run.json", "views.png"} <= names(judged)
    assert names(judged / "labels") == {"mine.json"}  # Nobody's but the user's.
    (away,) = (judged / results.EARLIER).iterdir()
    assert away.name == "step-10"
    assert names(away) == {*results.FILES, "labels"}
    assert names(away / "labels") == {"3_per_class-0.json"}
    record = json.loads((judged / "run.json").read_text())
    assert record["results"]["steps"] == 15
    assert not {"evaluation", "evaluated_on"} & set(record)


def test_an_evaluation_names_its_images(judged):
    small_evaluation(judged, validation_data=small.images(n=24, seed=2))
    images = {"data": "array", "validation_data": "array"}
    assert json.loads((judged / "evaluation.json").read_text())["images"] == images
    assert json.loads((judged / "run.json").read_text())["evaluated_on"] == images


def test_they_are_gone_before_the_record_is(judged, monkeypatch):
    """A process that is killed in between leaves no number of other weights."""
    record = (judged / "run.json").read_bytes()

    def killed(*args):
        put_away(*args)
        raise KeyboardInterrupt

    put_away = results.put_away
    monkeypatch.setattr(results, "put_away", killed)
    changes = {"epochs": 3, "allow_changes": ("epochs",)}
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(small.images(), str(judged), **SETTINGS | changes)
    assert not set(results.FILES) & names(judged)
    assert (judged / "run.json").read_bytes() == record


def test_a_finished_run_keeps_them(judged):
    before = names(judged), names(judged / "labels")
    pretrain.pretrain(small.images(), str(judged), **SETTINGS)
    assert (names(judged), names(judged / "labels")) == before


def test_a_new_run_leaves_what_others_have_put_into_its_folder(tmp_path):
    (tmp_path / "evaluation.json").write_text("of an encoder from elsewhere")
    few = small.images(n=8)
    pretrain.pretrain(few, str(tmp_path), **SETTINGS | {"epochs": 1, "batch_size": 4})
    assert (tmp_path / "evaluation.json").exists()

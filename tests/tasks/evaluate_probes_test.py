import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from tests.tasks.evaluate_test import evaluated
from tfssl import files
from tfssl.evaluation import judging
from tfssl.tasks import runs


def test_the_augmented_probe_stands_beside_the_others(run, capsys):
    rows = evaluated(
        run,
        probes=("knn", "linear", "augmented"),
        probe_epochs=2,
        probe_rates=(0.1, 10.0),
        probe_batch_size=16,
        probe_options={"min_steps": 40},
        probe_draws=2,
        budgets=("1", "100%"),
        baselines=("raw_pixels", "random_encoder"),
        verbose=1,
    )
    found = {(r["features"], r["labels"]): r for r in rows if r["probe"] == "augmented"}
    kinds = ("pre-trained", "random encoder")  # Pixels have no encoder to train on.
    assert set(found) == {(k, b) for k in kinds for b in ("1 per class", "100 %")}
    few, every = found["pre-trained", "1 per class"], found["pre-trained", "100 %"]
    assert (few["draws"], every["draws"]) == (2, 1)
    assert few["protocol"].endswith("; first of 2 draws") and few["validation"] == []
    assert every["accuracy"] > 0.9 and every["top5"] == 1.0
    assert [pair[:2] for pair in every["validation"]] == [[0.1, 0.0], [10.0, 0.0]]
    # The digits' recipe has no flips, so its own geometry is kept.
    assert "crop 0.75 to 1 of the area, no flip, rotation 0.3;" in every["protocol"]
    printed = capsys.readouterr().out
    assert re.search(r"labels +features +kNN +linear +augmented", printed)
    assert f"pre-trained, 100 %: {every['protocol']}" in printed
    assert json.loads((run / "evaluation.json").read_text())["rows"] == rows
    html = (run / "report.html").read_text()
    assert "trained on augmented images" in html and "by accuracy on 8 held-out" in html


def test_clusters_are_compared_with_the_classes(run, capsys):
    rows = evaluated(
        run, clusters=2, budgets=("100%",), baselines=("raw_pixels",), verbose=1
    )
    unlabeled = {(r["features"], r["probe"]): r for r in rows if r["labels"] == "none"}
    kinds = ("pre-trained", "raw pixels")
    assert set(unlabeled) == {(k, p) for k in kinds for p in ("purity", "NMI")}
    # The bright half tells the two classes apart, in raw pixels all the more.
    assert unlabeled["raw pixels", "purity"]["accuracy"] == 1.0
    assert unlabeled["raw pixels", "NMI"]["accuracy"] == 1.0
    protocol = unlabeled["pre-trained", "NMI"]["protocol"]
    assert protocol.startswith("NMI of k-means of unit-norm features (8), 2 clusters")
    printed = capsys.readouterr().out
    assert re.search(r"none +raw pixels +- +- +100\.0 +100\.0", printed)
    html = (run / "report.html").read_text()
    assert "Purity of k-means clusters" in html and "NMI of k-means" in html


def test_a_run_with_a_recipe_of_its_own(run, tmp_path, caplog):
    """Only names of recipes are stored; the others are told, not guessed."""
    own = tmp_path / "run"
    shutil.copytree(run, own)
    record = files.read_json(own / "run.json")
    record["settings"]["recipe"] = "custom"
    files.write_json(own / "run.json", record)
    rows = evaluated(
        own,
        budgets=("100%",),
        baselines=(),
        probes=("augmented",),
        probe_rates=(1.0,),
        probe_options={"min_steps": 4},
    )
    assert "crop 0.5 to 1 of the area, no flip;" in rows[-1]["protocol"]
    assert any("is not stored with it" in message for message in caplog.messages)


def test_evaluation_changes_no_weight(run):
    before = [np.array(v) for v in runs.load(run).variables]
    evaluated(
        run,
        baselines=(),
        budgets=("1",),
        probes=("knn", "linear", "augmented", "mlp"),
        probe_options={"min_steps": 4},
    )
    for a, b in zip(before, runs.load(run).variables):
        np.testing.assert_array_equal(a, b)


def test_an_mlp_on_the_output_and_on_pixels(run):
    rows = evaluated(
        run,
        probes=("mlp",),
        probe_options={"min_steps": 60, "epochs": 1, "units": (16, 8)},
        budgets=("100%",),
        baselines=("raw_pixels",),
    )
    found = {row["features"]: row for row in rows if row["probe"] == "mlp"}
    assert set(found) == {"pre-trained", "raw pixels"}
    assert found["raw pixels"]["accuracy"] == 1.0
    protocol = found["raw pixels"]["protocol"]
    assert protocol.startswith("MLP probe (64 → 16 → 8 → 2, ReLU)")
    assert "on 8 held-out images" in protocol
    html = (run / "report.html").read_text()
    assert "MLP probe, top-1 accuracy in %" in html


@pytest.mark.parametrize(
    "name, label",
    [
        # Other tests of evaluations have each of these alone.
        pytest.param("knn", "kNN", marks=pytest.mark.slow),
        pytest.param("linear", "linear", marks=pytest.mark.slow),
        pytest.param("mlp", "mlp", marks=pytest.mark.slow),
        ("augmented", "augmented"),
    ],
)
def test_every_probe_stands_by_itself(run, name, label):
    options = {} if name == "knn" else {"min_steps": 4, "epochs": 1}
    rows = evaluated(
        run,
        probes=(name,),
        probe_options=options,
        budgets=("100%",),
        baselines=("random_encoder",),
    )
    found = [(row["features"], row["probe"]) for row in rows]
    assert found == [("pre-trained", label), ("random encoder", label)]


def test_clusters_stand_by_themselves(run):
    rows = evaluated(run, probes=(), clusters=2, baselines=())
    assert [row["probe"] for row in rows] == ["purity", "NMI"]


@dataclasses.dataclass(frozen=True)
class Largest(judging.Probe):
    """The class that most of the training images have."""

    name = "largest"
    titles = {"largest": "Largest class"}

    def rows(self, subject, budgets):
        for budget in budgets:
            scores = []
            for bank in budget.banks(subject):
                guess = np.bincount(bank.labels).argmax()
                scores.append((subject.queries.labels == guess).mean())
            yield subject.row(budget.name, "largest", scores, "the largest class")


def test_a_probe_of_the_users_own(run, capsys):
    rows = evaluated(
        run,
        probes=("knn", Largest()),
        budgets=("1", "100%"),
        baselines=(),
        verbose=1,
    )
    found = {r["labels"]: r for r in rows if r["probe"] == "largest"}
    assert found["1 per class"]["draws"] == 3
    assert found["100 %"]["accuracy"] == 0.5  # 20 images of each of two classes.
    assert re.search(r"labels +features +kNN +largest\n", capsys.readouterr().out)
    html = (run / "report.html").read_text()
    assert "largest, top-1 accuracy in %" in html and "Weighted kNN, top-1" in html

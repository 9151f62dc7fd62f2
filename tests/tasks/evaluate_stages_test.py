import json
import re

import pytest

from tests.tasks import pretrain_test as small
from tests.tasks.evaluate_test import evaluated
from tfssl import processor
from tfssl.evaluation import features
from tfssl.tasks import pretrain


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A finished run of an encoder that names its stages."""
    out = tmp_path_factory.mktemp("staged")
    settings = small.TINY | {
        "encoder": "alexnet",
        "encoder_args": {"stem": "cifar", "width": 1 / 32},
        "image_size": 16,
        "epochs": 1,
    }
    pretrain.pretrain(small.images(size=16), str(out), **settings)
    return out


STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")


def evaluated_stages(run, **arguments):
    arguments = {
        "data": small.images(size=16),
        "validation_data": small.images(size=16, seed=1),
        "budgets": ("100%",),
        "baselines": ("random_encoder",),
        "probe_options": {"min_steps": 60, "epochs": 1},
    } | arguments
    return evaluated(run, **arguments)


def test_every_stage_has_its_probes(staged, capsys):
    rows = evaluated_stages(
        staged,
        probes=("knn", "linear", "mlp"),
        probe_options={"min_steps": 60, "epochs": 1, "units": 16},
        stages=("all",),
        stage_features=100,
        verbose=1,
    )
    found = [row for row in rows if "stage" in row]
    kinds = ("pre-trained", "random encoder")
    keys = [(r["encoder"], r["stage"], r["labels"], r["probe"]) for r in found]
    assert sorted(keys) == sorted(
        (kind, stage, "100 %", probe)
        for kind in kinds
        for stage in STAGES
        for probe in ("linear", "mlp")
    )
    # The encoder's output keeps its own rows; kNN is of the output only.
    others = [row for row in rows if "stage" not in row]
    assert {row["probe"] for row in others} == {"kNN", "linear", "mlp"}
    assert {row["features"] for row in others} == set(kinds)
    # Maps of 16, 7, 3, 3 and 3 pixels a side; 3, 8, 12, 12 and 8 filters.
    sizes = {"conv1": 75, "conv2": 72, "conv3": 48, "conv4": 48, "conv5": 72}
    for row in found:
        assert row["features"] == f"{row['encoder']} {row['stage']}"
        assert f"features ({sizes[row['stage']]})" in row["protocol"]
    # The bright half tells the classes apart, in a map but not in its mean.
    every = {key: r["accuracy"] for key, r in zip(keys, found)}
    assert every["pre-trained", "conv1", "100 %", "linear"] > 0.9
    assert every["random encoder", "conv1", "100 %", "mlp"] > 0.9
    printed = capsys.readouterr().out
    assert re.search(r"labels +features +kNN +linear +mlp\n", printed)
    assert re.search(r"100 % +random encoder conv5 +- +\d+\.\d +\d+\.\d\n", printed)
    stored = json.loads((staged / "evaluation.json").read_text())
    assert stored["rows"] == rows
    html = (staged / "report.html").read_text()
    assert "Stages of the encoder" in html
    assert "MLP probe, labels: 100 %, top-1 accuracy in %" in html


def test_stages_come_in_the_order_of_the_encoder_and_repeat(staged):
    options = {
        "stages": ("conv5", "conv2"),
        "baselines": (),
        "budgets": ("5", "100%"),
        "probe_draws": 2,
    }
    rows = evaluated_stages(staged, **options)
    found = [(r["labels"], r["stage"], r["draws"]) for r in rows if "stage" in r]
    assert found == [
        ("5 per class", "conv2", 2),
        ("5 per class", "conv5", 2),
        ("100 %", "conv2", 1),
        ("100 %", "conv5", 1),
    ]
    assert evaluated_stages(staged, **options) == rows


def test_the_augmented_probe_of_a_stage(staged):
    rows = evaluated_stages(
        staged,
        probes=("linear", "augmented"),
        probe_rates=(1.0,),
        probe_epochs=1,
        probe_options={"min_steps": 4},
        stages=("conv4",),
        stage_features=48,
        baselines=(),
    )
    found = {row["probe"]: row for row in rows if row.get("stage") == "conv4"}
    assert set(found) == {"linear", "augmented"}
    assert "raw features (48)" in found["augmented"]["protocol"]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (
            {"stages": ("conv9",)},
            "stage 'conv9' received, .* are conv1, conv2, conv3, conv4, conv5",
        ),
        ({"stages": ("all", "conv1")}, "stages=all,conv1 received, expected either"),
        ({"stage_features": 0}, "stage_features=0 received, expected a whole number"),
        ({"probe_options": {"rates": 1}}, "probe_option 'rates' received"),
        ({"probe_options": {"l2s": -1.0}}, r"l2s=\[-1.0\] received for the probe"),
        (
            {"probes": ("mlp",), "probe_options": {"units": ()}},
            "MLP needs hidden units",
        ),
        ({"probes": ("mlp",), "probe_options": {"units": 0}}, "units=0 received"),
        (
            {"probes": ("knn",), "probe_options": None},
            "stages=all received, but none of probes=knn judges stages",
        ),
    ],
)
def test_bad_stages(staged, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluated_stages(staged, **{"stages": ("all",)} | changes)


def test_features_that_do_not_fit_into_memory_are_refused(staged, monkeypatch):
    monkeypatch.setattr(processor, "free_memory", lambda: 80 * 4 * 200)
    monkeypatch.setattr(features, "Extractor", None)  # Before any is computed.
    with pytest.raises(ValueError, match="or a lower stage_features than 10,000"):
        evaluated_stages(staged, probes=("mlp",), stages=("conv1",))

"""Runs whose views the device finishes."""

import os

import pytest

from tests.tasks import clustering_test, pretrain_test
from tests.tasks.pretrain_test import TINY, assert_same_runs, images
from tfssl import data, files, replicas
from tfssl.tasks import finetune, pretrain

CASES = {
    "simclr": dict(recipe="simclr"),
    "moco": dict(method="moco", hparams=dict(queue_size=16, projection_dim=8)),
    "swav": clustering_test.CASES["swav"],
    "deepcluster_v2": clustering_test.CASES["deepcluster_v2"],
}


def pretrained(out, **settings):
    return pretrain.pretrain(images(), str(out), **TINY | settings)


# That of SimCLR is compared in pretrain_test.py, as on a GPU.
@pytest.mark.parametrize(
    "name",
    [
        "deepcluster_v2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("simclr", "moco", "swav")),
    ],
)
def test_resume_equals_the_straight_run(name, tmp_path):
    of_case = CASES[name] | {"augment_on": "device"}
    runs = pretrain_test.straight_and_interrupted(tmp_path, **of_case)
    assert_same_runs(*runs)


def test_by_itself_a_gpu_finishes_the_views(tmp_path, capsys, monkeypatch):
    """What a GPU turns on, on the CPU; and the run goes on where there is none."""
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    run = pretrained(tmp_path, epochs=1, verbose=1)
    assert run.method.finish is not None
    assert "views finished on the device (augment_on=auto)" in capsys.readouterr().out
    record = files.read_json(os.path.join(run.path, "run.json"))
    assert record["settings"]["augment_on"] == "auto"
    assert record["versions"]["augment_on"] == "device"
    monkeypatch.undo()
    more = pretrained(tmp_path, epochs=1, augment_on="host", resume=True)
    assert more.method.finish is None and len(more.history) == 1


def test_without_augmentation_the_host_makes_the_views(tmp_path):
    run = pretrained(tmp_path, epochs=1, augment=False, augment_on="device")
    assert run.method.finish is None


def test_a_classifier_learns_from_finished_views(tmp_path):
    """Mixed too: what is mixed are finished views."""
    scores = {}
    for place in ("host", "device"):
        run = finetune.finetune(
            pretrain_test.tiny_encoder((8, 8, 1)),
            images(),
            tmp_path / place,
            preprocessing=data.Preprocessing(size=8, channels=1),
            augment_on=place,
            mixup=0.2,
            epochs=2,
            batch_size=8,
            verbose=0,
        )
        scores[place] = run.history[-1]["loss"]
    assert scores["device"] == pytest.approx(scores["host"], abs=2e-3)

import json
import os
import re
import shutil

import numpy as np
import pytest

from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl import files, formats, progress
from tfssl.evaluation import features, knn
from tfssl.tasks import evaluate


def evaluated(run, **arguments):
    arguments = {
        "data": small.images(),
        "validation_data": small.images(seed=1),
        "budgets": ("1", "50%", "100%"),
        "draws": 3,
        "supervised_epochs": 2,
        "supervised_min_steps": 10,
        "verbose": 0,
    } | arguments
    run = str(run) if isinstance(run, os.PathLike) else run
    return evaluate.evaluate(run, **arguments)


def test_every_number_has_its_protocol(run, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0)  # All work is long.
    baselines = ("raw_pixels", "random_encoder", "supervised", "fine_tuned")
    rows = evaluated(run, baselines=baselines, verbose=1)
    kinds = ["pre-trained", "raw pixels", "random encoder"]
    expected = {
        (kind, labels, probe)
        for kind in kinds
        for labels in ("1 per class", "50 %", "100 %")
        for probe in ("kNN", "linear")
    } | {
        (kind, labels, "end to end")
        for kind in ("supervised", "fine-tuned")
        for labels in ("1 per class", "50 %", "100 %")
    }
    assert {(r["features"], r["labels"], r["probe"]) for r in rows} == expected
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert row["protocol"]
        once = row["labels"] == "100 %" or row["probe"] == "end to end"
        assert row["draws"] == (1 if once else 3)
    # The bright half tells the classes apart: the pixels themselves must do it.
    raw = [r for r in rows if r["features"] == "raw pixels" and r["probe"] == "linear"]
    assert raw[-1]["accuracy"] == 1.0
    printed, told = capsys.readouterr()
    assert re.search(r"^features: 1 of \d+, ", told, re.MULTILINE)
    assert re.search(r"100 % +raw pixels +100\.0 +100\.0", printed)
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["rows"] == rows
    assert len(stored["label_lists"]["1 per class"]) == 3
    source = data_lib.open_source(small.images())
    for draw, sha256 in enumerate(stored["label_lists"]["1 per class"]):
        path = str(run / "labels" / f"1_per_class-{draw}.json")
        selection = data_lib.labels.load(path, source)
        assert selection.sha256 == sha256
        assert sorted(source.labels[selection.indices]) == [0, 1]
    with pytest.raises(ValueError, match="other labels"):
        pixels, labels = small.images()
        data_lib.labels.load(path, data_lib.open_source((pixels, 1 - labels)))
    html = (run / "report.html").read_text()
    for text in ("raw pixels", "<svg", "data:image/png;base64", "effective rank"):
        assert text in html


def test_an_evaluation_that_ends_early_leaves_what_it_has(run, tmp_path, capsys):
    out, real = tmp_path / "judged", knn.Knn.rows
    options = dict(probes=("knn",), budgets=("1", "100%"), out=str(out), verbose=1)
    options |= {"baselines": ("random_encoder",)}

    def rows(self, subject, budgets):
        if subject.name == "random encoder":
            raise KeyboardInterrupt
        yield from real(self, subject, budgets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn.Knn, "rows", rows)
        with pytest.raises(KeyboardInterrupt):
            evaluated(run, **options)
    left = [path.name for path in out.iterdir() if path.suffix == ".json"]
    assert left == ["evaluation_unfinished.json"]
    kept = files.read_json(out / "evaluation_unfinished.json")["rows"]
    printed = capsys.readouterr().out
    assert re.search(r"^pre-trained, 1 per class: kNN \d+\.\d", printed, re.MULTILINE)
    assert [row["labels"] for row in kept] == ["1 per class", "100 %"]
    done = evaluated(run, **options)
    assert len(done) == 4 and all(row in done for row in kept)
    assert not (out / "evaluation_unfinished.json").exists()
    assert files.read_json(out / "evaluation.json")["rows"] == done


def test_the_same_call_gives_the_same_numbers(run):
    options = {"baselines": ("random_encoder",), "budgets": ("1",)}
    assert evaluated(run, **options) == evaluated(run, **options)


def test_an_encoder_without_a_training_step_is_refused(run, tmp_path):
    untrained = tmp_path / "run"
    shutil.copytree(run, untrained)
    record = files.read_json(untrained / "run.json")
    files.write_json(untrained / "run.json", record | {"results": {"steps": 0}})
    with pytest.raises(ValueError, match="has not been trained: .* records no step"):
        evaluated(untrained)


NO_BASELINES = {"baselines": ()}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"budgets": ("many",)}, "label budget 'many' received, expected a number"),
        ({"budgets": ("0",)}, "label budget '0' received"),
        ({"budgets": ("99",)}, "label budget '99' received, but class"),
        ({"budgets": ("1", "150%")}, "label budget '150%' received, expected"),
        ({"budgets": ("0%",)}, "label budget '0%' received, expected"),
        ({"budgets": ()}, r"budgets=\(\) received, expected one or more"),
        ({"seed": -1}, "seed=-1 received, expected a whole number"),
        ({"knn_temperature": float("inf")}, "knn_temperature=inf received"),
        (
            {"baselines": ("imagenet",)},
            "baseline 'imagenet' received, expected some of",
        ),
        (
            {"probes": ("knn", "svm")},
            "probe 'svm' received, expected some of linear, augmented, mlp, knn",
        ),
        ({"probes": "knn"}, "probes='knn' received, expected a list of texts"),
        ({"probes": ("knn", "knn")}, "probe 'knn' received twice"),
        ({"probes": ()} | NO_BASELINES, r"probes=\(\) received and nothing else"),
        (
            {"probes": ("augmented",), "probe_rates": (0.1, -1.0)},
            r"Learning rates \[0.1, -1.0\]",
        ),
        ({"clusters": 41}, r"clusters=41 received, expected 0 \(none\) to 40"),
        ({"clusters": -1}, "clusters=-1 received"),
        ({"probe_epochs": 0}, "probe_epochs=0 received, expected a whole"),
        (
            {"probes": ("augmented",), "probe_options": {"min_steps": "abc"}},
            "min_steps='abc' received, expected a whole number",
        ),
        (
            {"probes": ("augmented",), "probe_options": {"weight_decays": ("abc",)}},
            r"Weight decays \['abc'\] received",
        ),
        (
            {"probe_options": {"tau": 1}},
            "probe_option 'tau' received, expected some of k, temperature, .*knn, lin",
        ),
        ({"probe_options": {"mlp.rate": 1}}, "probe_option 'mlp.rate' received"),
        ({"probe_options": {"k": 0}}, "k=0 received, expected a whole number"),
        ({"data": small.images()[0]}, "labelled training images, but there are no lab"),
        ({"validation_data": small.images(seed=1)[0]}, "labelled validation images"),
    ],
)
def test_bad_input(run, changes, sentence, monkeypatch):
    monkeypatch.setattr(  # What is wrong is found before the first pass.
        evaluate.evaluation_features, "of_networks", lambda *_, **__: 1 / 0
    )
    with pytest.raises(ValueError, match=sentence):
        evaluated(run, **changes)


def test_no_run_no_evaluation(tmp_path):
    with pytest.raises(ValueError, match="No encoder at"):
        evaluate.evaluate(str(tmp_path))


def test_an_encoder_without_stages(run):
    with pytest.raises(ValueError, match="names no stages .* such as resnet50"):
        evaluated(run, stages=("all",))


def test_features_of_nan_are_refused_as_soon_as_they_come(monkeypatch):
    network = small.tiny_encoder((8, 8, 1))
    computed, forward = [], features.forward

    def counted(encoder, images):
        computed.append(encoder)
        return forward(encoder, images) * np.nan

    monkeypatch.setattr(features, "forward", counted)
    monkeypatch.setattr(features, "raw_pixels", None)
    with pytest.raises(
        ValueError, match="'pre-trained' needs finite features, but those of 8 of 8 con"
    ):
        evaluated(
            formats.Encoder(network, data_lib.Preprocessing(size=8, channels=1)),
            batch_size=8,
            baselines=("raw_pixels", "random_encoder"),
        )
    assert len({id(encoder) for encoder in computed}) == 1

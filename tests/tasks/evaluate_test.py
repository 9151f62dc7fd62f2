import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl import files
from tfssl.tasks import embed, evaluate, export, pretrain, runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on two classes that the bright half tells apart."""
    out = tmp_path_factory.mktemp("run")
    settings = small.TINY | {"epochs": 2}
    pretrain.pretrain(small.images(), str(out), **settings)
    return out


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
    return evaluate.evaluate(str(run), **arguments)


def test_every_number_has_its_protocol(run, capsys):
    rows = evaluated(run, verbose=1)
    kinds = ["pre-trained", "raw pixels", "random encoder"]
    expected = {
        (kind, labels, probe)
        for kind in kinds
        for labels in ("1 per class", "50 %", "100 %")
        for probe in ("kNN", "linear")
    } | {("supervised", b, "end to end") for b in ("1 per class", "50 %", "100 %")}
    assert {(r["features"], r["labels"], r["probe"]) for r in rows} == expected
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert row["protocol"]
        once = row["labels"] == "100 %" or row["features"] == "supervised"
        assert row["draws"] == (1 if once else 3)
    # The bright half tells the classes apart: the pixels themselves must do it.
    raw = [r for r in rows if r["features"] == "raw pixels" and r["probe"] == "linear"]
    assert raw[-1]["accuracy"] == 1.0
    printed = capsys.readouterr().out
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
    with pytest.raises(ValueError, match="other data"):
        pixels, labels = small.images()
        data_lib.labels.load(path, data_lib.open_source((pixels, 1 - labels)))
    html = (run / "report.html").read_text()
    for text in ("raw pixels", "<svg", "data:image/png;base64", "effective rank"):
        assert text in html


def test_partly_labelled_data_is_judged_by_its_labelled_part(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")

    def partly(seed):
        """Every other image is noise of no label."""
        pixels, labels = small.images(seed=seed)
        noise = np.random.default_rng(seed).permutation(pixels, axis=1)
        mixed = np.stack([noise, pixels], axis=1).reshape(-1, *pixels.shape[1:])
        return mixed, np.stack([np.full(40, -1), labels], axis=1).reshape(-1)

    rows = evaluated(
        copy, data=partly(0), validation_data=partly(1), verbose=1, clusters=2
    )
    printed = capsys.readouterr().out
    for part in ("training", "validation"):
        assert f"the 40 of 80 {part} images of array that have a label" in printed
    hashes = re.compile("label lists.*")
    for row, expected in zip(rows, evaluated(run, clusters=2), strict=True):
        for found in (row, expected):
            found["protocol"] = hashes.sub("", found["protocol"])
        assert row == expected
    source = data_lib.open_source(partly(0))
    selection = data_lib.labels.load(copy / "labels" / "1_per_class-0.json", source)
    assert sorted(source.labels[selection.indices]) == [0, 1]


def test_the_same_call_gives_the_same_numbers(run):
    options = {"baselines": ("random_encoder",), "budgets": ("1",)}
    assert evaluated(run, **options) == evaluated(run, **options)


def test_the_augmented_probe_stands_beside_the_others(run, capsys):
    rows = evaluated(
        run,
        probe="augmented",
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
        probe="augmented",
        probe_rates=(1.0,),
        probe_options={"min_steps": 4},
    )
    assert "crop 0.5 to 1 of the area, no flip;" in rows[-1]["protocol"]
    assert any("is not stored with it" in message for message in caplog.messages)


def test_an_encoder_without_a_training_step_is_refused(run, tmp_path):
    untrained = tmp_path / "run"
    shutil.copytree(run, untrained)
    record = files.read_json(untrained / "run.json")
    files.write_json(untrained / "run.json", record | {"results": {"steps": 0}})
    with pytest.raises(ValueError, match="has not been trained: .* records no step"):
        evaluated(untrained)


def test_evaluation_changes_no_weight(run):
    before = [np.array(v) for v in runs.load(run).variables]
    evaluated(
        run, baselines=(), budgets=("1",), probe="augmented",
        probe_options={"min_steps": 4},
    )  # fmt: skip
    for a, b in zip(before, runs.load(run).variables):
        np.testing.assert_array_equal(a, b)


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
        ({"probe": "svm"}, "probe='svm' received, .* of lbfgs, augmented, mlp"),
        ({"probe_rates": (0.1, -1.0)}, r"Learning rates \[0.1, -1.0\]"),
        ({"clusters": 41}, r"clusters=41 received, expected 0 \(none\) to 40"),
        ({"clusters": -1}, "clusters=-1 received"),
        ({"probe_epochs": 0}, "probe_epochs=0 received, expected a whole"),
        (
            {"probe": "augmented", "probe_options": {"min_steps": "abc"}},
            "min_steps='abc' received, expected a whole number",
        ),
        (
            {"probe": "augmented", "probe_options": {"weight_decays": ("abc",)}},
            r"Weight decays \['abc'\] received",
        ),
        ({"probe_options": {"tau": 1}}, "probe_option 'tau' received, expected"),
        ({"data": small.images()[0]}, "labelled training images, but there are no lab"),
        ({"validation_data": small.images()[0]}, "labelled validation images"),
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


def test_embed_gives_every_image_once_and_writes_it(run, tmp_path):
    images, labels = small.images(n=21)
    out = tmp_path / "deep" / "e.npz"
    found = embed.embed(str(run), (images, labels), str(out), batch_size=8,
                        verbose=0)  # fmt: skip
    encoder = runs.load(run)
    expected = encoder(images.astype("float32") / 255.0)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    stored = np.load(out)
    np.testing.assert_array_equal(stored["features"], found.values)
    assert stored["names"][3] == "array[3]"
    assert [p.name for p in out.parent.iterdir()] == ["e.npz"]


def test_embed_needs_a_preprocessing(run):
    bare = small.tiny_encoder((8, 8, 1))
    with pytest.raises(ValueError, match="carries no preprocessing"):
        embed.embed(bare, small.images()[0])
    plain = data_lib.Preprocessing(size=8, channels=1)
    found = embed.embed(bare, small.images()[0], preprocessing=plain, verbose=0)
    assert found.values.shape == (40, 8)


def test_export_of_a_run_checks_itself(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(small.images(n=12)[0]):
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    out = tmp_path / "run"
    pretrain.pretrain(str(folder), str(out), channels=1, **small.TINY | {"epochs": 1})
    path = export.export(str(out), str(tmp_path / "models"), check=True, warmup=2)
    assert path.endswith("models/run/1")
    printed = capsys.readouterr().out
    difference = float(re.search(r"difference to Python (\S+)", printed).group(1))
    assert difference <= 1e-5
    assert (tmp_path / "models/run/1/assets.extra/tf_serving_warmup_requests").exists()
    assert export.export(str(out), str(tmp_path / "models")).endswith("run/2")
    with pytest.raises(ValueError, match="1"):
        export.export(str(out), str(tmp_path / "models"), version=1)
    with pytest.raises(ValueError, match="pass the run's folder"):
        export.export(str(out / "encoder.keras"), str(tmp_path / "m"), check=True)


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
        probe="mlp",
        probe_options={"min_steps": 60, "epochs": 1, "units": 16},
        stages=("all",),
        stage_features=100,
        budgets=("5", "100%"),
        probe_draws=2,
        verbose=1,
    )
    found = [row for row in rows if "stage" in row]
    kinds = ("pre-trained", "random encoder")
    keys = [(r["encoder"], r["stage"], r["labels"], r["probe"]) for r in found]
    assert sorted(keys) == sorted(
        (kind, stage, labels, probe)
        for kind in kinds
        for stage in STAGES
        for labels in ("5 per class", "100 %")
        for probe in ("linear", "mlp")
    )
    # The encoder's output keeps its own rows; the MLP is on the stages only.
    others = [row for row in rows if "stage" not in row]
    assert {row["probe"] for row in others} == {"kNN", "linear"}
    assert {row["features"] for row in others} == set(kinds)
    # Maps of 16, 7, 3, 3 and 3 pixels a side; 3, 8, 12, 12 and 8 filters.
    sizes = {"conv1": 75, "conv2": 72, "conv3": 48, "conv4": 48, "conv5": 72}
    for row in found:
        assert row["features"] == f"{row['encoder']} {row['stage']}"
        assert f"features ({sizes[row['stage']]})" in row["protocol"]
        assert row["draws"] == (2 if row["labels"] == "5 per class" else 1)
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
    options = {"stages": ("conv5", "conv2"), "baselines": ()}
    rows = evaluated_stages(staged, **options)
    assert [r["stage"] for r in rows if "stage" in r] == ["conv2", "conv5"]
    assert evaluated_stages(staged, **options) == rows


def test_the_augmented_probe_of_a_stage(staged):
    rows = evaluated_stages(
        staged,
        probe="augmented",
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


def test_an_mlp_on_the_output_and_on_pixels(run):
    rows = evaluated(
        run,
        probe="mlp",
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
        ({"probe": "mlp", "probe_options": {"units": ()}}, "MLP needs hidden units"),
        ({"probe": "mlp", "probe_options": {"units": 0}}, "units=0 received"),
    ],
)
def test_bad_stages(staged, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluated_stages(staged, **changes)


def test_an_encoder_without_stages(run):
    with pytest.raises(ValueError, match="names no stages .* such as resnet50"):
        evaluated(run, stages=("all",))


def test_classes_are_matched_by_name(run):
    (pixels, labels), (queries, others) = small.images(), small.images(seed=1)
    names = ("dark", "bright")
    rows = evaluated(
        run,
        data=data_lib.sources.ArraySource(pixels, labels, class_names=names),
        validation_data=data_lib.sources.ArraySource(
            queries, 1 - others, class_names=names[::-1]
        ),
        budgets=("100%",),
        baselines=("raw_pixels",),
    )
    raw = {r["probe"]: r["accuracy"] for r in rows if r["features"] == "raw pixels"}
    assert raw == {"kNN": 1.0, "linear": 1.0}

import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tests.fixtures import copied_runs, killed_processes
from tests.tasks import pretrain_test as small
from tfssl import data, files, formats, replicas
from tfssl.formats import keras_file
from tfssl.tasks import evaluate, finetune, groups, runs
from tfssl.training import checkpoint

PREPROCESSING = data.Preprocessing(size=8, channels=1)
SHORT = dict(epochs=2, batch_size=8, verbose=0, learning_rate=1e-2)


def encoder(seed=0):
    keras.utils.set_random_seed(seed)
    return formats.Encoder(small.tiny_encoder((8, 8, 1)), PREPROCESSING)


def tuned(out, given=None, train=None, **settings):
    return finetune.finetune(
        encoder() if given is None else given,
        small.images() if train is None else train,
        str(out),
        **SHORT | {"validation_data": small.images(seed=1)} | settings,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run to its end; the network that it began with, and its weights before."""
    began = encoder(seed=7)  # The baseline begins with the weights of seed 0.
    before = began.get_weights()
    run = tuned(tmp_path_factory.mktemp("whole"), began, epochs=6, baseline=True)
    return run, began, before


def test_a_run_leaves_everything_it_promises(whole):
    run, began, before = whole
    expected = {"baseline", "checkpoints", "classification.html",
                "classification.json", "encoder.keras", "metrics.jsonl", "run.json",
                "tensorboard", "views.png"}  # fmt: skip
    assert expected <= set(os.listdir(run.path))
    assert [line["step"] for line in run.history] == [5, 10, 15, 20, 25, 30]
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert np.isfinite(run.history[-1][key]), key
    assert run.history[-1]["val_accuracy"] == 1.0  # Bright above or below.
    record = json.load(open(os.path.join(run.path, "run.json")))
    assert record["task"] == "finetune" and record["results"]["steps"] == 30
    assert record["made"]["budget"]["classes"] == ["0", "1"]
    brief = {"top1": 1.0, "top5": None, "mean_per_class": 1.0}
    assert record["classification"]["fine-tuned"] == brief
    best = record["results"]["best_val"]
    assert best["val"] == 1.0
    # What it began with is the user's, and stays as it was.
    for old, new in zip(before, began.get_weights()):
        np.testing.assert_array_equal(old, new)
    moved = zip(before, run.encoder.get_weights())
    assert any(np.abs(old - new).max() > 0 for old, new in moved)


def test_many_validation_images_are_judged_more_rarely_than_few_are_learned(tmp_path):
    """80 of them cost as much as three epochs of eight."""
    run = tuned(
        tmp_path / "run",
        train=small.images(n=8),
        validation_data=small.images(n=80, seed=1),
        epochs=8,
    )
    judged = [line["epoch"] for line in run.history if "val_loss" in line]
    assert judged == [4, 8]


def test_its_file_is_a_classifier_and_an_encoder(whole):
    run = whole[0]
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    classifier = tfssl.load_classifier(run.path)
    assert classifier.class_names == ("0", "1") and not classifier.multilabel
    logits = run.method.logits(images)
    np.testing.assert_allclose(classifier(images), logits, rtol=1e-5, atol=1e-6)
    features = tfssl.load(run.path)(images)
    np.testing.assert_array_equal(features, run.method.encoder(images))
    rows = evaluate.evaluate(
        run.path,
        data=small.images(),
        validation_data=small.images(seed=1),
        probes=("knn",),
        baselines=("supervised",),
        budgets=("100%",),
        verbose=0,
    )
    assert rows[0]["accuracy"] > 0.9


def page_of(run):
    with open(os.path.join(run.path, "classification.html")) as page:
        return page.read()


def test_scores_on_other_images_are_said_to_be_of_them(tmp_path):
    """A finished run is judged again, its curves stay."""
    first, other = (
        data.open_source(small.images(n=count, seed=1)).subset(range(count), name=name)
        for count, name in ((40, "first"), (24, "other"))
    )
    run = tuned(tmp_path, validation_data=first)
    assert runs.record_of(run.path)["classification"]["validation"] == "first"
    assert "The scores are of first, 40 images" in page_of(run)
    assert "The curves are of" not in page_of(run)
    run = tuned(tmp_path, validation_data=other)
    record = runs.record_of(run.path)
    assert record["classification"]["validation"] == "other"
    assert record["judged"]["validation_data"]["name"] == "first"
    assert "The scores are of other, 24 images" in page_of(run)
    assert "The curves are of first, 40 images" in page_of(run)
    longer = {"epochs": 3, "allow_changes": ("epochs",)}
    run = tuned(tmp_path, validation_data=other, **longer)
    assert (
        "Up to step 10 epochs were judged by validation_data=first, 40 images"
        in page_of(run)
    )
    assert "and not of these images" not in page_of(run)


def test_scores_are_those_of_its_predictions(whole):
    run = whole[0]
    found = files.read_json(os.path.join(run.path, "classification.json"))
    pixels, labels = small.images(seed=1)
    images = np.stack([PREPROCESSING.apply(tf.constant(image)) for image in pixels])
    said = np.argmax(tfssl.load_classifier(run.path)(images), axis=1)
    mine = found["results"]["fine-tuned"]
    assert mine["top1"] == (said == labels).mean()
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (labels, said), 1)
    assert mine["confusion"] == confusion.tolist()
    page = open(os.path.join(run.path, "classification.html")).read()
    assert "from scratch" in page and f"{100 * mine['top1']:.1f}" in page
    scratch = runs.load(os.path.join(run.path, "baseline"))
    assert np.abs(scratch.get_weights()[0] - run.encoder.get_weights()[0]).max() > 0
    assert set(found["results"]) == {"fine-tuned", "from scratch"}


ALL = {
    "label_smoothing": 0.1,
    "balance_classes": True,
    "mixup": 0.2,
    "cutmix": 1.0,
    "averaging": 0.9,
    "erase": 0.5,
    "repeats": 2,
    "freeze": "frozen",
}


def test_resume_in_mid_epoch_equals_the_straight_run(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, name="frozen")(inputs)
    inner = small.tiny_encoder((6, 6, 4))
    network = formats.Encoder(keras.Model(inputs, inner(x)), PREPROCESSING)

    def train(out, **settings):
        return tuned(out, network, **ALL, **settings)

    small.assert_same_runs(*copied_runs.of(train, tmp_path))


@pytest.mark.parametrize(
    "inside", ["", pytest.param("baseline", marks=pytest.mark.slow)]
)
def test_killed_processes_resume_to_the_same_weights(tmp_path, inside):
    """kill -9 and SIGTERM of a real process, in either of its trainings."""
    keras_file.save(encoder(), str(tmp_path / "tiny.keras"))

    def command(out):
        flags = [
            f"--encoder={tmp_path / 'tiny.keras'}", "--data=digits", "--budget=10%",
            "--validation_split=test", "--epochs=40", "--batch_size=16", "--mixup=0.2",
            "--averaging=0.9", "--checkpoint_steps=7", "--baseline", f"--out={out}",
        ]  # fmt: skip
        return [sys.executable, "-m", "pipelines.finetune", *flags]

    whole, parts = killed_processes.resumed(command, tmp_path, inside)
    found = []
    for out in (whole, parts):
        found.append(files.read_json(str(out / "classification.json")))
    assert found[0] == found[1] and len(found[0]["results"]) == 2
    killed_processes.assert_same_weights(whole, parts)
    killed_processes.assert_same_weights(whole / "baseline", parts / "baseline")


MIXED = {"mixup": 0.2, "cutmix": 1.0, "erase": 0.5, "repeats": 2}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run on one device, of images that are mixed."""
    return tuned(tmp_path_factory.mktemp("mixed"), **MIXED)


def test_two_replicas_learn_what_one_does(mixed, tmp_path):
    two = tuned(tmp_path, strategy="mirrored", num_replicas=2, **MIXED)
    expected = checkpoint.named_variables(mixed.method, optimizer=False)
    found = checkpoint.named_variables(two.method, optimizer=False)
    for name, variable in expected.items():
        np.testing.assert_allclose(found[name], variable, rtol=1e-4, atol=1e-5)
    assert two.history[-1]["val_loss"] == pytest.approx(
        mixed.history[-1]["val_loss"], rel=1e-4
    )


def test_on_one_gpu_steps_are_compiled(mixed, tmp_path, monkeypatch):
    """What a GPU turns on, on the CPU."""
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    compiled = tuned(tmp_path, augment_on="host", **MIXED)
    assert compiled.method.jit_compile
    assert compiled.history[-1]["loss"] == pytest.approx(
        mixed.history[-1]["loss"], rel=1e-3
    )


@pytest.mark.parametrize(
    "precision",
    [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"],
)
def test_mixed_precision(tmp_path, precision):
    run = tuned(tmp_path, precision=precision)
    assert np.isfinite(run.history[-1]["loss"])
    assert run.method.encoder.layers[1].compute_dtype == precision[6:]
    images = np.zeros((2, 8, 8, 1), "float32")
    assert run.method.logits(images).dtype == "float32"


def test_labels_of_two_folders_meet_by_name(tmp_path):
    """The validation images lack a class, and their folders come in other numbers."""
    pixels = {"ant": 20, "bee": 120, "cat": 240}
    for part, classes in (("train", "ant bee cat"), ("val", "ant cat")):
        for name in classes.split():
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(8):
                image = np.full((8, 8, 1), pixels[name] + i, np.uint8)
                (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    run = tuned(
        tmp_path / "run",
        train=str(tmp_path / "train"),
        validation_data=str(tmp_path / "val"),
        epochs=12,
        learning_rate=0.1,
    )
    assert tfssl.load_classifier(run.path).class_names == ("ant", "bee", "cat")
    assert run.history[-1]["val_accuracy"] == 1.0
    scores = files.read_json(os.path.join(run.path, "classification.json"))
    assert scores["results"]["fine-tuned"]["per_class"] == [1.0, None, 1.0]
    rows = evaluate.evaluate(
        run.path, probes=("knn",), baselines=(), budgets=("100%",), verbose=0
    )
    assert rows[0]["accuracy"] > 0.9


def test_labels_of_a_folder_and_of_arrays_meet(tmp_path):
    """What is a folder has its classes by its folders, whatever the other one is."""
    pixels, labels = small.images(8)
    for i, image in enumerate(pixels):
        path = tmp_path / "folder" / str(labels[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())
    validation = groups.Validation(validation_data=str(tmp_path / "folder"))
    images = groups.Images(channels=1)
    _, found = validation.sources((pixels, labels), images, 0, class_folders=True)
    assert sorted(found.labels) == sorted(labels)
    validation = groups.Validation(validation_data=(pixels, labels))
    folder = str(tmp_path / "folder")
    found, _ = validation.sources(folder, images, 0, class_folders=True)
    assert sorted(found.labels) == sorted(labels)
    (found, _) = groups.Validation().sources(folder, images, 0)
    assert found.labels is None  # Pre-training asks for no class folders.


def test_a_budget_is_the_images_that_an_evaluation_draws(run, tmp_path):
    evaluate.evaluate(
        str(run),
        out=str(tmp_path / "judged"),
        data=small.images(),
        validation_data=small.images(seed=1),
        budgets=("3",),
        draws=1,
        probes=("linear",),
        baselines=(),
        verbose=0,
    )
    (listed,) = (tmp_path / "judged" / "labels").iterdir()
    by_budget = tuned(tmp_path / "a", str(run), budget="3", batch_size=None)
    by_list = tuned(tmp_path / "b", str(run), label_list=str(listed), batch_size=None)
    records = [
        runs.record_of(one.path)["made"]["budget"] for one in (by_budget, by_list)
    ]
    assert records[0]["images"] == 6 and records[0] == records[1]
    assert records[0]["sha256"] == files.read_json(str(listed))["sha256"]


def test_layers_of_the_head_go_along(run, tmp_path):
    found = tuned(tmp_path, str(run), head_layer=1)
    network = found.encoder.network
    assert network.output_shape == (None, 8)  # Of the projector, not the encoder's.
    before = tfssl.load(str(run), head_layer=1).get_weights()
    moved = [np.abs(a - b).max() > 0 for a, b in zip(before, network.get_weights())]
    assert sum(moved) >= len(moved) - 2
    again = tfssl.load(found.path)
    images = np.zeros((2, 8, 8, 1), "float32")
    np.testing.assert_array_equal(again(images), network(images))
    # What tells classes apart is no layer to go on from.
    with pytest.raises(ValueError, match="head_layer=1 .* is a classifier, which"):
        tfssl.load(found.path, head_layer=1)


def test_linear_first_then_all(tmp_path):
    linear = tuned(tmp_path / "linear", freeze="all")
    before = encoder().get_weights()
    for old, new in zip(before, linear.encoder.get_weights()):
        np.testing.assert_array_equal(old, new)
    both = tuned(tmp_path / "all", init_from=linear.path, learning_rate=0.0)
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    found = both.method.classifier.get_weights()
    for old, new in zip(linear.method.classifier.get_weights(), found):
        np.testing.assert_array_equal(old, new)
    # Of other classes it is refused, and nothing is written.
    pixels, labels = small.images()
    with pytest.raises(ValueError, match="tells 2 classes apart and these .* 3"):
        tuned(
            tmp_path / "other",
            train=(pixels, np.arange(len(labels)) % 3),
            validation_data=None,
            init_from=linear.path,
        )
    assert not (tmp_path / "other").exists()
    assert images.shape  # Used by both.


def test_a_start_with_other_weights_or_labels_is_refused(tmp_path):
    tuned(tmp_path / "run")
    before = sorted(os.listdir(tmp_path / "run"))
    record = (tmp_path / "run" / "run.json").read_bytes()
    for given, message in (
        (dict(given=encoder(seed=1)), "encoder is .* there and .* here"),
        (dict(budget="3", batch_size=6), "batch_size|budget"),
        (dict(freeze="all"), "freeze is 'none' there and 'all' here"),
        (dict(mixup=0.5), "mixup is 0.0 there and 0.5 here"),
    ):
        with pytest.raises(ValueError, match=message):
            tuned(tmp_path / "run", **given)
    with pytest.raises(ValueError, match="another kind .finetune, and not pretrain"):
        tfssl.pretrain(small.images(), str(tmp_path / "run"), epochs=1, **small.TINY)
    assert sorted(os.listdir(tmp_path / "run")) == before
    assert (tmp_path / "run" / "run.json").read_bytes() == record


def test_a_new_encoder_by_its_name(tmp_path):
    run = tuned(
        tmp_path,
        "vit_tiny_4",
        encoder_args={"dim": 16, "depth": 1, "heads": 2},
        image_size=8,
        epochs=1,
    )
    assert run.encoder.preprocessing.size == 8
    assert run.encoder.preprocessing.channels == 1


def test_few_images_are_mixed_in_pairs_and_their_classes_count_alike(tmp_path):
    pixels, labels = small.images()
    keep = np.r_[np.flatnonzero(labels == 0)[:5], np.flatnonzero(labels == 1)[:2]]
    run = tuned(
        tmp_path,
        train=(pixels[keep], labels[keep]),
        batch_size=None,
        mixup=0.2,
        balance_classes=True,
        class_weights={"1": 2.0},
    )
    assert [line["step"] for line in run.history] == [1, 2]  # Of 6 images.
    np.testing.assert_allclose(run.method.class_weights, [7 / 10, 2 * 7 / 4])


def test_a_file_of_keras_and_a_plain_model(tmp_path):
    path = str(tmp_path / "mine.keras")
    keras_file.save(encoder(), path)
    of_file = tuned(tmp_path / "a", path, epochs=1)
    network = encoder().network
    of_model = tuned(tmp_path / "b", network, preprocessing=PREPROCESSING, epochs=1)
    assert of_file.history[-1]["loss"] == of_model.history[-1]["loss"]

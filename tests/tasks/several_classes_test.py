import os

import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tests.fixtures import copied_runs
from tests.tasks import finetune_test
from tests.tasks import pretrain_test as small
from tfssl import data, files
from tfssl.tasks import labelled_images, runs, several_classes


def several(n=40, seed=0):
    """Images with a bright upper half, a bright left half, both or none."""
    rng = np.random.default_rng(seed)
    marks = np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], axis=1)
    pixels = rng.integers(0, 100, size=(n, 8, 8, 1))
    pixels[marks[:, 0] == 1, :4] += 70
    pixels[marks[:, 1] == 1, :, :4] += 70
    marks[:3, 1] = -1  # Nobody knows.
    return pixels.astype(np.uint8), marks


def test_images_of_several_classes(tmp_path):
    def train(out, **settings):
        return finetune_test.tuned(
            out,
            train=several(),
            validation_data=several(seed=1),
            task="multilabel",
            class_weights={"1": 2.0},
            mixup=0.2,
            **settings,
        )

    whole, parts = copied_runs.of(train, tmp_path)
    small.assert_same_runs(whole, parts)
    found = files.read_json(os.path.join(whole.path, "classification.json"))
    mine = found["results"]["fine-tuned"]
    assert mine["mean_ap"] == pytest.approx(whole.history[-1]["val_map"])
    assert mine["mean_ap"] == pytest.approx(np.mean(mine["per_class"]))
    assert 0.4 < mine["mean_ap_11_points"] <= 1
    assert "mean_ap" not in open(os.path.join(whole.path, "classification.html")).read()
    classifier = tfssl.load_classifier(whole.path)
    assert classifier.multilabel and classifier.class_names == ("0", "1")
    rows = tfssl.predict(whole.path, several()[0], threshold=0.0, verbose=0)
    images = np.stack(
        [finetune_test.PREPROCESSING.apply(tf.constant(i)) for i in several()[0]]
    )
    expected = 1 / (1 + np.exp(-np.array(classifier(images))))
    np.testing.assert_allclose(rows.probabilities, expected, rtol=1e-4)
    record = runs.record_of(whole.path)
    assert set(record["results"]["best_val_map"]) == {"checkpoint", "val_map"}


def test_one_class_an_image_may_be_learned_class_by_class(tmp_path):
    run = finetune_test.tuned(tmp_path, task="multilabel", budget="50%", epochs=1)
    assert run.method.multilabel
    assert runs.record_of(run.path)["made"]["budget"]["images"] == 20


def test_labels_of_the_other_kind_are_refused(tmp_path):
    for given, message in (
        (dict(train=several(), validation_data=None), "give task=multilabel"),
        (dict(task="multilabel", budget="3"), "budget=3 received with task=multilabel"),
        (dict(task="multilabel", balance_classes=True), "balance_classes=True"),
        (dict(task="multilabel", train=several()), "have one class each"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune_test.tuned(tmp_path / "run", **given)
        assert not (tmp_path / "run").exists()


def test_validation_images_may_lack_the_last_of_numbered_classes():
    pixels = np.zeros((6, 8, 8, 1), np.uint8)
    train = data.open_source((pixels, np.array([0, 1, 2, 0, 1, 2])))
    held_out = data.open_source((pixels, np.array([0, 1, 0, 1, 0, 1])))
    found = several_classes.prepared(
        train, held_out, labelled_images.LabelBudget()
    ).validation
    np.testing.assert_array_equal(found.label_sets[:2], [[1, 0, 0], [0, 1, 0]])
    one = data.sources.ArraySource(pixels, np.zeros(6, int), class_names=("cat",))
    with pytest.raises(
        ValueError, match="has the classes cat only, expected 2 or more"
    ):
        several_classes.prepared(one, None, labelled_images.LabelBudget())

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tests.fixtures import copied_runs, deep_images
from tests.tasks import finetune_test
from tests.tasks import pretrain_test as small
from tfssl import files, formats, models
from tfssl.models import heads
from tfssl.tasks import distill, runs

SHORT = dict(epochs=2, batch_size=8, verbose=0, learning_rate=1e-2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A fine-tuned run that tells the two classes apart."""
    run = finetune_test.tuned(tmp_path_factory.mktemp("teacher"), epochs=6)
    assert run.history[-1]["val_accuracy"] == 1.0
    return run.path


def distilled(out, teacher, train=None, **settings):
    return distill.distill(
        teacher,
        small.images()[0] if train is None else train,  # Without labels.
        str(out),
        **SHORT | {"validation_data": small.images(seed=1)} | settings,
    )


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """A run of two epochs, on one device."""
    return distilled(tmp_path_factory.mktemp("student"), teacher)


def test_a_student_learns_without_labels(teacher, tmp_path):
    run = distilled(tmp_path, teacher, student=finetune_test.encoder(3), epochs=8)
    assert run.history[-1]["agreement"] == 1.0
    assert run.history[-1]["val_accuracy"] == 1.0
    classifier = tfssl.load_classifier(run.path)
    assert classifier.class_names == ("0", "1")
    images = np.zeros((2, 8, 8, 1), "float32")
    logits = run.method.logits(images)
    np.testing.assert_allclose(classifier(images), logits, rtol=1e-5, atol=1e-6)
    found = files.read_json(os.path.join(run.path, "classification.json"))
    assert set(found["results"]) == {"student", "teacher"} and found["labels"] == 0
    record = runs.record_of(run.path)
    assert record["task"] == "distill"
    assert record["made"]["teacher"]["fingerprint"]


def test_without_a_student_it_is_a_new_network_like_the_teacher(teacher, tmp_path):
    run = distilled(tmp_path, teacher, epochs=1, learning_rate=0.0)
    of_teacher = tfssl.load(teacher)
    assert run.encoder.count_params() == of_teacher.count_params()
    mine, its = run.encoder.get_weights()[0], of_teacher.get_weights()[0]
    assert np.abs(mine - its).max() > 0


def test_without_a_student_no_layer_of_a_projection_head_goes_along(tmp_path):
    encoder = finetune_test.encoder(3)
    head = heads.mlp(encoder.output_shape[-1], (5,))
    network = models.Headed(encoder.network, head)
    taught = formats.Classifier(
        network,
        heads.mlp(5, (2,), name="classifier"),
        ("0", "1"),
        preprocessing=encoder.preprocessing,
    )
    run = distilled(tmp_path, taught, epochs=1)
    assert run.encoder.output_shape == encoder.output_shape
    assert run.encoder.count_params() == encoder.count_params()
    with pytest.raises(ValueError, match="crop received without a student"):
        distilled(tmp_path / "other", taught, crop=0.5)


def test_files_of_sixteen_bits_keep_them_for_a_student_of_such(teacher, tmp_path):
    given = deep_images.folder(tmp_path / "deep")
    deep = deep_images.encoder()
    changes = {"labels": "none", "validation_data": None, "epochs": 1}
    run = distilled(tmp_path / "run", teacher, given, student=deep, **changes)
    assert runs.record_of(run.path)["made"]["images"]["dtype"] == "uint16"


def test_a_transformer_learns_from_a_cnn_through_a_token_of_its_own(teacher, tmp_path):
    run = distilled(
        tmp_path,
        teacher,
        train=small.images(),
        student="vit_tiny_4",
        encoder_args=dict(dim=16, depth=1, heads=2, distillation_token=True),
        label_weight=0.5,
        hard_labels=True,
        epochs=1,
    )
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype("float32")
    said = tfssl.load_classifier(run.path)(images)
    features = tfssl.load(run.path)(images)
    both = run.method.classifier.layers[-1].both(features)
    np.testing.assert_allclose(said, np.mean(both, axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 1e-4


def test_resume_in_mid_epoch_equals_the_straight_run(teacher, tmp_path):
    def train(out, **settings):
        return distilled(out, teacher, averaging=0.9, mixup=0.2, **settings)

    small.assert_same_runs(*copied_runs.of(train, tmp_path))


def test_two_replicas_learn_what_one_does(teacher, student, tmp_path):
    two = distilled(tmp_path, teacher, strategy="mirrored", num_replicas=2)
    for a, b in zip(student.encoder.get_weights(), two.encoder.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_another_teacher_is_refused(teacher, student):
    other = tfssl.load_classifier(teacher)
    weights = other.head.get_weights()
    other.head.set_weights([2 * weight for weight in weights])
    with pytest.raises(ValueError, match="teacher.*there and .* here"):
        distilled(student.path, other)
    with pytest.raises(ValueError, match="another kind .distill, and not finetune"):
        finetune_test.tuned(student.path)


def test_what_cannot_be_learned_is_refused(teacher, run, tmp_path):
    pixels, labels = small.images(seed=1)
    classifier = tfssl.load_classifier(teacher)
    several = formats.Classifier(
        classifier.network,
        classifier.head,
        ("a", "b"),
        preprocessing=classifier.preprocessing,
        multilabel=True,
    )
    for given, message in (
        (dict(teacher=str(run)), "holds an encoder and no classifier"),
        (dict(teacher=keras.Sequential()), "teacher=.*formats.Classifier"),
        (dict(teacher=several), "multi-label"),
        (dict(validation_data=(pixels, labels + 1)), "class '2', expected only those"),
        (dict(label_weight=0.5), "label_weight received, but .* has no labels"),
        (dict(budget="3"), "no labels are learned from"),
        (dict(encoder_args={"width": 2}), "received without a student"),
        (dict(train=np.zeros((9, 8, 8, 3), np.uint8)), "channel"),
    ):
        given = {"teacher": teacher} | given
        with pytest.raises(ValueError, match=message):
            distilled(tmp_path / "run", **given)
        assert not (tmp_path / "run").exists()


def test_true_labels_count_as_much_as_is_said(teacher, tmp_path, caplog):
    """Numbers are the classes of a teacher of names, as fine-tuning takes them.

    Those of validation images, and those that are learned.
    """
    caplog.set_level("WARNING", "absl")
    given = tfssl.load_classifier(teacher)
    named = formats.Classifier(
        given.network, given.head, ("dark", "light"), preprocessing=given.preprocessing
    )
    train = small.images()
    given = dict(label_weight=0.5, budget="3", epochs=1)
    run = distilled(tmp_path, named, train=train, **given)
    made = runs.record_of(run.path)["made"]["budget"]
    assert made["images"] == 6
    assert run.method.with_labels and np.isfinite(run.history[-1]["loss"])
    assert "val_accuracy" in run.history[-1]
    told = [line for line in caplog.messages if "places in their list" in line]
    assert len(told) == 2 and "those of the teacher are names" in told[0]


def test_photos_without_class_folders_beside_a_validation_folder_with(
    teacher, tmp_path, caplog
):
    """Nobody is told that the two share no class: the teacher's names count."""
    pixels, labels = small.images()
    for i, (image, label) in enumerate(zip(pixels, labels)):
        for folder in (tmp_path / "photos", tmp_path / "test" / str(label)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    run = distilled(
        tmp_path / "run",
        teacher,
        train=str(tmp_path / "photos"),
        validation_data=str(tmp_path / "test"),
        epochs=1,
    )
    assert "val_accuracy" in run.history[-1]
    assert "share no class" not in caplog.text

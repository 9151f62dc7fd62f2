"""Exports of classifiers: logits, probabilities, and the names of the classes."""

import functools
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import plain_exports
from tests.fixtures.classifiers import (
    NAMES,
    PREPROCESSING,
    classifier,
    in_python,
    pictures,
)
from tests.fixtures.networks import ours
from tfssl import data, formats
from tfssl.formats import keras_file
from tfssl.tasks import runs

_OUTPUTS = ("features", "logits", "probabilities")


def encoded(images):
    return [tf.io.encode_png(image).numpy() for image in images]


@pytest.mark.parametrize("multilabel", [False, True])
def test_every_signature_gives_logits_and_probabilities(tmp_path, multilabel):
    made = classifier(multilabel=multilabel)
    loaded = tf.saved_model.load(formats.saved_model(made, tmp_path / "m"))
    images = pictures()
    expected = dict(zip(_OUTPUTS, in_python(made, images)))
    assert np.ptp(expected["probabilities"], axis=0).max() > 1e-3
    sums = np.sum(expected["probabilities"], axis=1)
    assert np.allclose(sums, 1) != multilabel

    answer = loaded.signatures["serving_default"](tf.constant(encoded(images)))
    assert set(answer) == {*_OUTPUTS, "valid"}
    for name in _OUTPUTS:
        np.testing.assert_allclose(answer[name], expected[name], atol=1e-5)
    for row, image in enumerate(images):
        prepared = made.preprocessing.apply(tf.constant(image))
        for signature, given in (("uint8_images", image), ("float_images", prepared)):
            answer = loaded.signatures[signature](images=tf.constant(given)[np.newaxis])
            assert set(answer) == set(_OUTPUTS)
            for name in _OUTPUTS:
                np.testing.assert_allclose(
                    answer[name][0], expected[name][row], atol=1e-5
                )


def test_bad_images_get_zeros_and_empty_batches_nothing(tmp_path):
    made = classifier(multilabel=True)
    loaded = tf.saved_model.load(formats.saved_model(made, tmp_path / "m"))
    answer = loaded.signatures["serving_default"](
        tf.constant([b"no image", *encoded(pictures(1))])
    )
    np.testing.assert_array_equal(answer["valid"], [False, True])
    for name, expected in zip(_OUTPUTS, in_python(made, pictures(1))):
        np.testing.assert_array_equal(answer[name][0], 0.0)
        np.testing.assert_allclose(answer[name][1:], expected, atol=1e-5)
    for signature, nothing in (
        ("serving_default", tf.zeros([0], tf.string)),
        ("uint8_images", tf.zeros([0, 9, 7, 3], tf.uint8)),
    ):
        answer = loaded.signatures[signature](nothing)
        assert answer["logits"].shape == answer["probabilities"].shape == (0, 3)


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_mixed_precision_stays_inside(tmp_path, policy):
    made = classifier(make=functools.partial(ours, dtype=policy))
    loaded = tf.saved_model.load(formats.saved_model(made, tmp_path / "m"))
    answer = loaded.signatures["serving_default"](tf.constant(encoded(pictures())))
    for name, expected in zip(_OUTPUTS, in_python(made, pictures())):
        assert answer[name].dtype == tf.float32
        expected = tf.cast(expected, tf.float32)
        np.testing.assert_allclose(answer[name], expected, atol=1e-5)


def test_a_version_holds_the_names_and_both_models(tmp_path, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    names = ("ant", "b/e|e", "Käfer", " with spaces ", "\\n")
    made = classifier(names)
    path = formats.saved_model(made, tmp_path / "m")
    with open(os.path.join(path, "assets", "classes.txt"), encoding="utf-8") as file:
        assert tuple(file.read().split("\n")[:-1]) == names
    # It travels where a SavedModel does, as TensorFlow knows of it.
    moved = tmp_path / "moved"
    loaded = tf.saved_model.load(path)
    tf.saved_model.save(loaded, str(moved), signatures=loaded.signatures)
    assert (moved / "assets" / "classes.txt").exists()

    whole = os.path.join(path, "assets.extra", "classifier.keras")
    for again in (keras_file.load_classifier(whole), runs.load_classifier(path)):
        assert again.class_names == names
        np.testing.assert_array_equal(
            in_python(again, pictures())[2], in_python(made, pictures())[2]
        )
    network, preprocessing = keras_file.load(
        os.path.join(path, "assets.extra", "encoder.keras")
    )
    assert type(network) is type(made.network) and preprocessing == PREPROCESSING
    inputs = tf.zeros([1, 8, 8, 3])
    for encoder in (network, runs.load(path)):
        np.testing.assert_array_equal(encoder(inputs), made.network(inputs))
    stored = {
        name: np.prod(shape, dtype=int)
        for name, shape in tf.train.list_variables(f"{path}/variables/variables")
        if "OBJECT_GRAPH" not in name and "SAVE_COUNTER" not in name.upper()
    }
    assert sum(stored.values()) == made.count_params()  # None of them twice.


def test_an_encoder_has_no_classes(tmp_path):
    made = formats.Encoder(classifier().network, PREPROCESSING)
    path = formats.saved_model(made, tmp_path / "m")
    assert os.listdir(os.path.join(path, "assets")) == []
    assert sorted(os.listdir(os.path.join(path, "assets.extra"))) == [
        "README.md",
        "encoder.keras",
        "preprocessing.json",
    ]
    answer = tf.saved_model.load(path).signatures["serving_default"]
    assert set(answer.structured_outputs) == {"features", "valid"}
    with pytest.raises(ValueError, match="encoder.keras' holds an encoder and no cl"):
        runs.load_classifier(path)


@pytest.mark.parametrize("name", ["two\nlines", "\r", "a\u2028b", ""])
def test_a_name_is_one_line(tmp_path, name):
    made = classifier(("ant", name, "cat"))
    with pytest.raises(ValueError, match="The class .* is not one line of text") as e:
        formats.saved_model(made, tmp_path / "m")
    assert repr(name) in str(e.value)
    assert not os.listdir(tmp_path)


def test_a_classifier_keeps_its_preprocessing(tmp_path, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    other = data.Preprocessing(size=8)
    with pytest.raises(ValueError, match="preprocessing=.*that of the classifier; le"):
        formats.saved_model(classifier(), tmp_path / "m", preprocessing=other)
    path = formats.saved_model(
        classifier(), tmp_path / "m", preprocessing=PREPROCESSING
    )
    assert path.endswith("/1")


def test_the_card_names_the_classes(tmp_path, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    formats.saved_model(classifier(), tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    for expected in (
        "Image classifier of 3 classes and encoder, 6 features",
        *(f"| {i} | {name} |" for i, name in enumerate(NAMES)),
        "`logits` and `probabilities`, both float32 (batch, 3)", "add up to 1.",
        '"probabilities": [[', "1/assets/classes.txt", "probabilities.argmax()",
    ):  # fmt: skip
        assert expected in card
    assert "more." not in card and "several" not in card

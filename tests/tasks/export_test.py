import functools
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import plain_exports
from tests.fixtures.classifiers import (
    PREPROCESSING,
    classifier,
    of_a_run,
    of_keras,
    write_pictures,
)
from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl import formats, models
from tfssl.formats import keras_file
from tfssl.internals import layers_of
from tfssl.tasks import export, pretrain, runs


def _encoder():
    return keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )


@pytest.fixture
def photos(tmp_path):
    """A folder with an encoder: all that an export needs."""
    folder = tmp_path / "runs" / "photos"
    path = folder / "encoder.keras"
    keras_file.save(_encoder(), path, data_lib.Preprocessing(size=4))
    return folder


@pytest.fixture
def opened_once(monkeypatch):
    """What several comparisons of a test open is the same SavedModel."""
    monkeypatch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))


def _transformer(**kwargs):
    """A network of few operations that has settings, blocks and a map."""
    return models.vit(8, depth=1, heads=2, patch=4, input_shape=(8, 8, 3), **kwargs)


@pytest.mark.parametrize(
    "given", [".", "../photos", "./", "deep/..", "deep/../../photos", "{run}/"]
)
def test_a_model_has_the_name_of_its_folder(photos, tmp_path, monkeypatch, given):
    (photos / "deep").mkdir()
    monkeypatch.chdir(photos)
    written = []

    def saved_model(model, folder, *, name, **_):
        written.append((folder, name))

    monkeypatch.setattr(formats, "saved_model", saved_model)
    export.export(given.format(run=photos), str(tmp_path / "models"))
    assert written == [(str(tmp_path / "models" / "photos"), "photos")]


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "/x", "", "a\\b", "a\n"])
def test_a_name_stays_in_its_folder(photos, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="^name=.* received, expected a file name, no"):
        export.export(str(photos), str(tmp_path / "models"), name=name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_home_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(photos)
    path = export.export("~/runs/photos", "~/models")
    base = tmp_path / "models"
    assert path == str(base / "photos" / "1")
    assert os.listdir(photos) == ["encoder.keras"]
    assert os.listdir(base) == ["photos"]
    assert (base / "photos" / "README.md").read_text().startswith("# photos\n")


def test_an_encoder_without_preprocessing_is_not_served(tmp_path):
    _encoder().save(tmp_path / "plain.keras")
    with pytest.raises(
        ValueError, match="plain.keras' holds no preprocessing.*save it"
    ):
        export.export(str(tmp_path / "plain.keras"), str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_the_check_sees_an_image_that_is_not_read(photos, tmp_path, opened_once):
    path = export.export(str(photos), str(tmp_path / "models"))
    encoder = runs.load(photos)
    image = tf.io.encode_png(np.full((6, 6, 3), 77, np.uint8)).numpy()
    assert export.largest_difference(path, encoder, [image]) <= 1e-5
    assert export.largest_difference(path, encoder, [image, b"no image"]) == np.inf


def test_no_file_has_six_channels_to_check_with(tmp_path):
    network = keras.Sequential(
        [keras.Input((4, 4, 6)), keras.layers.GlobalAveragePooling2D()]
    )
    path = tmp_path / "e.keras"
    keras_file.save(network, path, data_lib.Preprocessing(size=4, channels=6))
    for given in ({"check": True}, {"warmup": 2}):
        sentence = f"^{next(iter(given))} received.* takes 6 channels, which"
        with pytest.raises(ValueError, match=sentence):
            export.export(path, tmp_path / "models", **given)
    assert not (tmp_path / "models").exists()
    assert export.export(path, tmp_path / "models").endswith("models/e/1")


def _trained(folder, labelled, out):
    """A run that learned from files."""
    run = pretrain.pretrain(
        str(folder),
        str(out),
        channels=1,
        labels="folders",
        validation_data=small.images(seed=1),
        online_probe_epochs=1,
        online_probe_data=str(labelled),
        **small.TINY | {"epochs": 1},
    )
    assert "probe_accuracy" in run.history[-1]


def _as_if_trained(folder, labelled, out, run):
    """A copy of a run that says so."""
    shutil.copytree(run, out)
    record = json.loads((out / "run.json").read_text())
    record["settings"] |= {
        "data": str(folder),
        "channels": 1,
        "labels": "folders",
        "online_probe_epochs": 1,
        "online_probe_data": str(labelled),
    }
    (out / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_export_of_a_run_checks_itself(train, run, tmp_path, capsys):
    folder, labelled = tmp_path / "images", tmp_path / "labelled"
    for i, (image, label) in enumerate(zip(*small.images(n=12))):
        for path in (folder / f"{i}.png", labelled / str(label) / f"{i}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
    # The class folders are those of the probe; the images that train have none.
    out = tmp_path / "run"
    if train:
        _trained(folder, labelled, out)
    else:
        _as_if_trained(folder, labelled, out, run)
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


@pytest.mark.parametrize(
    "save", [of_a_run, pytest.param(of_keras, marks=pytest.mark.slow)]
)
def test_a_classifier_is_exported_with_its_classes(tmp_path, capsys, save):
    write_pictures(tmp_path / "images")
    folder = tmp_path / "pets"
    folder.mkdir()
    save(classifier(), str(folder / "encoder.keras"))
    path = export.export(
        str(folder),
        str(tmp_path / "models"),
        check=True,
        warmup=1,
        data=str(tmp_path / "images"),
    )
    printed = capsys.readouterr().out
    assert float(re.search(r"difference to Python (\S+)", printed).group(1)) <= 1e-5
    names = os.path.join(path, "assets", "classes.txt")
    with open(names, encoding="utf-8") as file:
        assert file.read() == "ant\nbee\ncat\n"
    # The version is exported again from what it holds.
    again = export.export(path, str(tmp_path / "models"), name="again")
    assert runs.load_classifier(again).class_names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="pass the run's folder instead"):
        export.export(path, str(tmp_path / "models"), check=True)


def test_the_card_tells_scores_and_of_which_images(tmp_path, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    folder = tmp_path / "pets"
    folder.mkdir()
    of_a_run(classifier(), str(folder / "encoder.keras"))
    scores = {"top1": 0.75, "top5": None, "mean_per_class": 0.5}
    entry = {"validation": "pets/test", "fine-tuned": scores}
    record = {"settings": {}, "classification": entry}
    (folder / "run.json").write_text(json.dumps(record))
    export.export(str(folder), str(tmp_path / "models"))
    card = (tmp_path / "models" / "pets" / "README.md").read_text()
    table = card[card.index("## Classification") :]
    again = export.export(str(tmp_path / "models" / "pets"), str(tmp_path / "again"))
    with open(os.path.join(again, "assets.extra", "README.md")) as file:
        assert file.read().endswith(table)
    assert "pets/test" in table and "0.75" in table and "0.5" in table
    assert "None" not in table and "top5" not in table


def test_the_check_sees_other_logits(tmp_path, opened_once):
    path = formats.saved_model(classifier(), tmp_path / "m")
    image = tf.io.encode_png(np.full((9, 9, 3), 77, np.uint8)).numpy()
    assert export.largest_difference(path, classifier(), [image]) <= 1e-5
    other = classifier()
    bias = other.head.layers[-1].bias
    bias.assign(bias + 0.01)  # Of all classes: the probabilities are the same.
    assert 1e-3 < export.largest_difference(path, other, [image]) < 0.011
    bias.assign(bias * np.nan)
    assert np.isnan(export.largest_difference(path, other, [image]))
    encoder = formats.Encoder(other.network, PREPROCESSING)
    assert export.largest_difference(path, encoder, [image]) <= 1e-5


def test_large_features_are_compared_as_logits_are(tmp_path, opened_once):
    encoder = formats.Encoder(classifier().network, PREPROCESSING)
    scale = encoder.network.layers[1].gamma
    scale.assign(1e4 * scale)
    path = formats.saved_model(encoder, tmp_path / "m")
    image = tf.io.encode_png(np.full((9, 9, 3), 77, np.uint8)).numpy()
    scale.assign((1 + 3e-6) * scale)
    features = np.max(encoder(PREPROCESSING.apply_encoded(image)[None]))
    assert features > 1000
    assert 0 < export.largest_difference(path, encoder, [image]) <= 1e-5
    scale.assign(1.01 * scale)
    assert export.largest_difference(path, encoder, [image]) > 1e-3


def _wide(network):
    return {layer.compute_dtype for layer in layers_of(network)} == {"float32"}


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_half_precision_is_exported_in_float32(tmp_path, policy):
    made = classifier(make=functools.partial(_transformer, dtype=policy))
    folder = tmp_path / "pets"
    folder.mkdir()
    of_a_run(made, str(folder / "encoder.keras"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    kept, wide = (
        export.export(
            str(folder),
            str(tmp_path / "m"),
            check=True,
            data=pixels,
            precision=precision,
        )
        for precision in (None, "float32")
    )
    for path, told in ((kept, policy), (wide, "float32")):
        with open(os.path.join(path, "assets.extra", "README.md")) as card:
            assert f"| computes in | {told} |" in card.read()
    assert not _wide(runs.load_classifier(kept))
    assert _wide(runs.load_classifier(wide)) and _wide(runs.load(wide).network)
    for one, other in zip(made.get_weights(), runs.load_classifier(wide).get_weights()):
        np.testing.assert_array_equal(one, other)
    images = tf.constant(pixels, tf.float32) / 255
    answers = [
        tf.saved_model.load(path).signatures["float_images"](images=images)["logits"]
        for path in (kept, wide)
    ]
    np.testing.assert_allclose(*answers, atol=0.2)
    assert np.any(answers[0] != answers[1])


class Tied(models.Segmenter):
    """Whose last two classes are as good as equal everywhere."""

    gap = 1e-7

    def logits(self, images, training=False):
        first = tf.zeros_like(images[..., 0])
        return tf.stack([first, first + 2 - self.gap, first + 2], axis=-1)

    def features_and_logits(self, images):
        return self(images), self.logits(images)


def test_masks_may_differ_where_two_classes_are_as_good_as_equal(tmp_path, opened_once):
    network = Tied(_transformer(), ("a", "b", "c"), image_size=8, width=16)
    model = formats.Encoder(network, PREPROCESSING)
    path = formats.saved_model(model, tmp_path / "m")
    image = tf.io.encode_png(np.full((9, 9, 3), 77, np.uint8)).numpy()
    assert export.largest_difference(path, model, [image]) <= 1e-5
    network.gap = -1e-6  # The other class is the first now, by very little.
    assert 0 < export.largest_difference(path, model, [image]) <= 1e-5
    network.gap = -1e-2
    assert export.largest_difference(path, model, [image]) > 1e-4


@pytest.mark.parametrize(
    "given, sentence",
    [
        (
            {"split": "test", "check": True},
            "^split='test' received without data, whose",
        ),
        ({"split": "test"}, "^split='test' received without data, whose part"),
        ({"data": "photos"}, "^data received, but neither check nor warmup, which"),
        ({"data": "photos", "split": "test"}, "^data received, but neither"),
        (
            {"data": np.zeros((3, 4, 4, 3), np.uint8), "warmup": 5},
            "^warmup=5 received, but only 3 of the images can be read; give at most 3",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(photos, tmp_path, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        export.export(str(photos), str(tmp_path / "models"), **given)
    assert not (tmp_path / "models").exists()


def test_images_that_cannot_be_read_are_passed_over(photos, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="^No image of .*images could be decoded"):
        export.export(str(photos), str(tmp_path / "none"), data=str(folder), check=True)
    assert not (tmp_path / "none").exists()
    for i in range(4, 7):
        image = np.full((6, 6, 3), 40 * i, np.uint8)
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    export.export(
        str(photos), str(tmp_path / "models"), data=str(folder), check=True, warmup=2
    )
    assert ": 3 images through the bytes" in capsys.readouterr().out


def test_what_differs_gets_no_version(photos, tmp_path, monkeypatch):
    """A server that looks takes a version as soon as it has its number."""

    def differs(path, *_):
        assert tf.saved_model.load(path).signatures
        return 0.5

    monkeypatch.setattr(export, "largest_difference", differs)
    pixels = np.zeros((4, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="differs .* by 5.0e-01, .* gets no version"):
        export.export(str(photos), str(tmp_path / "served"), check=True, data=pixels)
    assert not [path for path in (tmp_path / "served").rglob("*") if path.is_file()]

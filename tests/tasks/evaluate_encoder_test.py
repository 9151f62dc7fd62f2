"""Encoders that are not the folder of a run."""

import json
import shutil

import keras
import numpy as np
import pytest

from tests.fixtures.classifiers import PREPROCESSING, classifier
from tests.tasks import pretrain_test as small
from tests.tasks.evaluate_test import evaluated
from tfssl import data as data_lib
from tfssl import formats, locks, models
from tfssl.tasks import embed, run_report, runs

PLAIN, RGB = (data_lib.Preprocessing(size=8, channels=c) for c in (1, 3))
# The baseline that is trained follows the views of a run, where there is one.
UNTRAINED = ("raw_pixels", "random_encoder")


def foreign():
    """A model as keras.applications has them: of pixels from 0 to 255."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name="net")


def coloured(seed=0):
    pixels, labels = small.images(seed=seed)
    return np.repeat(pixels, 3, axis=-1), labels


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.convolution = keras.layers.Conv2D(width, 3)
        self.pool = keras.layers.GlobalAveragePooling2D()

    def call(self, images):
        return self.pool(keras.ops.relu(self.convolution(images)))

    def get_config(self):
        return super().get_config() | {"width": self.width}


class Stubborn(Subclassed):
    """A model that says nothing of its architecture."""

    def get_config(self):
        raise NotImplementedError("no configuration")


def test_a_keras_file_gives_the_rows_of_its_run(run, tmp_path):
    options = {"baselines": UNTRAINED, "budgets": ("5",), "draws": 2}
    expected = evaluated(run, **options)
    file = shutil.copy(run / "encoder.keras", tmp_path / "mine.keras")
    for encoder in (file, runs.load(file)):
        assert evaluated(encoder, **options) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["mine.keras"]


def test_a_classifier_is_taken_for_its_encoder(tmp_path):
    made = classifier()
    made.save(tmp_path / "c.keras")
    version = formats.saved_model(made, tmp_path / "m")
    before = sorted((tmp_path / "m").rglob("*"))
    images = {"data": coloured(), "validation_data": coloured(seed=1)}
    options = images | {"baselines": (), "budgets": ("100%",)}
    encoder = formats.Encoder(made.network, PREPROCESSING)
    rows = evaluated(encoder, **options)
    features = embed.embed(encoder, coloured(), verbose=0).values
    for given in (made, tmp_path / "c.keras", version):
        assert evaluated(given, **options) == rows
        found = embed.embed(given, coloured(), verbose=0).values
        np.testing.assert_allclose(found, features, atol=1e-6)
    assert sorted((tmp_path / "m").rglob("*")) == before  # It is no run.


def test_a_model_from_elsewhere_is_judged_and_reported(tmp_path, capsys):
    out = tmp_path / "deep" / "judged"
    # Pixels from 0 to 255: the values in [0, 1] are divided by 1 / 255.
    pixels = data_lib.Preprocessing(size=8, std=1 / 255)
    rows = evaluated(
        foreign(),
        data=coloured(),
        validation_data=coloured(seed=1),
        preprocessing=pixels,
        probes=("knn", "linear", "augmented"),
        probe_options={"augmented.epochs": 1, "augmented.min_steps": 4},
        probe_rates=(1.0,),
        budgets=("100%",),
        out=out,
        verbose=1,
    )
    kinds = {"pre-trained", "random encoder", "raw pixels", "supervised"}
    assert {row["features"] for row in rows} == kinds
    (found,) = [
        row["protocol"]
        for row in rows
        if (row["features"], row["probe"]) == ("pre-trained", "augmented")
    ]
    assert "random crop 0.08 to 1 of the area, flip 0.5" in found
    stored = json.loads((out / "evaluation.json").read_text())
    assert (stored["encoder"], stored["rows"]) == ("net", rows)
    html = (out / "report.html").read_text()
    assert "<h1>net on array</h1>" in html and "Training curves" not in html
    (ends,) = [row["protocol"] for row in rows if row["features"] == "supervised"]
    assert "recipe random crop 0.5 to 1 of the area, flip 0.5" in ends
    names = {path.name for path in out.iterdir()}
    assert names == {"evaluation.json", "labels", "report.html"}
    assert f"Report: {out}/report.html" in capsys.readouterr().out


def test_models_without_a_graph_and_without_a_configuration(caplog):
    for model, kinds in (
        (Subclassed(), {"pre-trained", "random encoder", "raw pixels", "supervised"}),
        (Stubborn(), {"pre-trained", "raw pixels"}),
    ):
        rows = evaluated(model, preprocessing=PLAIN, budgets=("100%",))
        assert {row["features"] for row in rows} == kinds
        for row in rows:
            assert 0 <= row["accuracy"] <= 1
    (line,) = [message for message in caplog.messages if "left out" in message]
    assert line.startswith(
        "The random encoder and what is trained on labels are left out"
    )
    assert "(no configuration); give its class get_config" in line


def test_a_run_is_judged_into_another_folder(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    options = {"baselines": (), "budgets": ("100%",), "out": tmp_path / "judged"}
    with locks.hold(copy):  # Only what is written to is held.
        rows = evaluated(copy, **options)
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert after == before
    stored = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert (stored["encoder"], stored["rows"]) == (str(copy), rows)
    assert "effective rank" in (tmp_path / "judged" / "report.html").read_text()
    with locks.hold(tmp_path / "judged"), pytest.raises(ValueError, match="is in use"):
        evaluated(copy, **options)


@pytest.mark.parametrize(
    "given, changes, sentence",
    [
        (foreign, {}, "carries no preprocessing; load it with"),
        ("plain.keras", {}, "carries no preprocessing; load it with"),
        ("no.keras", {}, "No encoder at .*no.keras"),
        (lambda: 5, {"preprocessing": PLAIN}, "run=5 received, expected the folder"),
        (
            foreign,
            {"preprocessing": RGB, "data": None},
            r"names no images to be judged on; pass data=… \(--data\)\.",
        ),
        (
            foreign,
            {"preprocessing": RGB, "data": None, "validation_data": None},
            r"pass data=… \(--data\) and validation_data=… \(--validation_data\)\.",
        ),
        (foreign, {"preprocessing": 8}, "preprocessing=8 received, expected a tfssl"),
        (foreign, {"preprocessing": PLAIN}, "takes images of 8 x 8 x 3, but the prep"),
    ],
)
def test_what_is_missing_is_said(tmp_path, given, changes, sentence):
    foreign().save(tmp_path / "plain.keras")
    encoder = str(tmp_path / given) if isinstance(given, str) else given()
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=sentence):
        evaluated(encoder, **{"out": out} | changes)
    assert not out.exists()


def test_the_page_of_a_vision_transformer_shows_where_it_looks(tmp_path):
    network = models.ViT(8, depth=1, heads=2, patch=4, input_shape=(8, 8, 1))
    options = {"baselines": (), "budgets": ("5",), "draws": 2, "probes": ("knn",)}
    evaluated(network, preprocessing=PLAIN, out=tmp_path, **options)
    page = (tmp_path / "report.html").read_text()
    section = page.partition("<h2>Attention</h2>")[2].partition("</section>")[0]
    assert section.count("<img") == 8 * (1 + 2)  # Images, and a map of each head.


@pytest.mark.parametrize(
    "learned, told",
    [
        ("photos[3:5]", "simclr on photos"),
        (None, "simclr on photos"),
        ("digits/train", "simclr, trained on digits/train, judged on photos"),
    ],
)
def test_a_title_says_what_was_trained_on(learned, told):
    assert run_report._title("simclr", learned, "photos[7]") == told

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.evaluate_test import evaluated
from tfssl import data, processor
from tfssl.data.sources import kept
from tfssl.evaluation import features, judging, supervised
from tfssl.tasks import evaluation_memory

# 80 images of 64 numbers, 3 times (the L-BFGS probe), and of 8 features each.
PIXELS, FEATURES = 3 * 80 * 64 * 4, 3 * 80 * 8 * 4


@pytest.fixture
def free(monkeypatch):
    """A function that sets the free memory, in bytes."""

    def set_free(count):
        monkeypatch.setattr(processor, "free_memory", lambda: count)

    return set_free


@pytest.fixture
def no_features(monkeypatch):
    """Nothing is computed."""

    def refuse(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr(features, "_parts", refuse)


def test_pixels_that_nobody_asked_for_are_left_out(run, free, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise AssertionError("raw pixels were computed")

    free(2 * PIXELS - 4)
    monkeypatch.setattr(features, "raw_pixels", refuse)
    rows = evaluated(run, budgets=("100%",), probes=("linear",))
    kinds = {row["features"] for row in rows}
    assert kinds == {"pre-trained", "random encoder", "supervised"}
    (line,) = [message for message in caplog.messages if "raw pixels" in message]
    assert line.startswith("The raw pixels of 80 images of 8 x 8 x 1 take 5.72e-05 GiB")
    assert "more than half of the 0.000114 GiB that are free" in line
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["left_out"] == {"raw_pixels": line}
    assert line in (run / "report.html").read_text()


def test_pixels_that_fit_are_judged(run, free, monkeypatch, caplog):
    monkeypatch.setattr(supervised.Supervised, "rows", lambda *_: ())
    free(2 * PIXELS)
    rows = evaluated(run, budgets=("100%",), probes=("linear",))
    assert "raw pixels" in {row["features"] for row in rows}
    assert not [message for message in caplog.messages if "raw pixels" in message]
    assert "left_out" not in json.loads((run / "evaluation.json").read_text())
    # Without copies in float64 they take a third.
    free(2 * PIXELS // 3)
    rows = evaluated(run, budgets=("100%",), probes=("knn",))
    assert "raw pixels" in {row["features"] for row in rows}


@pytest.mark.parametrize("spare", [0, -4])
def test_pixels_that_nobody_asked_for_take_what_the_features_leave(free, spare, caplog):
    """Two networks of as many features as pixels: two thirds of what is free."""
    images = data.open_source((np.zeros((10, 8, 8, 1), np.uint8), np.zeros(10, int)))
    made = data.Preprocessing(size=8, channels=1)
    setting = judging.Setting(images, images, made, None)
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    compared = types.SimpleNamespace(names=("raw_pixels",), baselines=None)
    numbers = 20 * 64 * 4
    free(3 * numbers + spare)
    networks = dict.fromkeys(("one", "another"), network)
    left_out, rest = evaluation_memory.shared_out(
        compared, networks, (), (), setting, limit=1
    )
    assert rest == (numbers + spare if spare else 0)
    assert list(left_out) == (["raw_pixels"] if spare else [])
    assert all("are free beside the other features" in x for x in left_out.values())
    assert caplog.messages == list(left_out.values())


def test_pixels_asked_for_that_do_not_fit_are_refused(run, free, no_features):
    free(FEATURES + PIXELS - 4)
    with pytest.raises(ValueError, match=r"baselines=raw_pixels .*5.72e-05 GiB are f"):
        evaluated(run, budgets=("100%",), probes=("linear",), baselines=["raw_pixels"])


def test_copies_of_a_clustering_count(run, free, no_features):
    """It makes three of the features of the 40 test images."""
    need = (80 + 3 * 40) * 8 * 4
    given = {"probes": ("knn",), "clusters": 2, "baselines": ()}
    free(need - 4)
    with pytest.raises(ValueError, match="features of 80 images .* give fewer images"):
        evaluated(run, budgets=("100%",), **given)
    free(need)
    with pytest.raises(AssertionError, match="features were computed"):
        evaluated(run, budgets=("100%",), **given)


def test_features_that_do_not_fit_are_refused(run, free, no_features):
    free(FEATURES - 4)
    with pytest.raises(ValueError, match="features of 80 images .* give fewer images"):
        evaluated(run, budgets=("100%",), probes=("linear",), baselines=())


def folder_of(path, images, labels):
    for place, (image, label) in enumerate(zip(images, labels)):
        file = path / str(label) / f"{place:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tf.io.encode_png(image).numpy())
    return str(path)


def test_files_are_decoded_once_and_give_the_same_numbers(
    run, tmp_path, monkeypatch, capsys
):
    passes = []
    decoded = kept._decoded_in_batches

    def noted(source, mean):
        passes.append(source.name)
        return decoded(source, mean)

    monkeypatch.setattr(kept, "_decoded_in_batches", noted)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 8)
    sets = rng.integers(0, 256, (2, 16, 8, 8, 1)).astype(np.uint8)
    train, test = (
        folder_of(tmp_path / name, images, labels)
        for name, images in zip(("train", "test"), sets)
    )
    given = dict(budgets=("100%",), probes=("linear",), verbose=1)
    given |= dict(baselines=("raw_pixels", "supervised"), supervised_min_steps=2)
    rows = evaluated(run, data=train, validation_data=test, labels="folders", **given)
    assert passes == [train, test]
    printed = capsys.readouterr().out
    for name in (train, test):
        line = f"Evaluation: {name}: images are decoded once and kept: about "
        assert line in printed
    expected = evaluated(
        run, data=(sets[0], labels), validation_data=(sets[1], labels), **given
    )
    numbers = ("features", "labels", "probe", "accuracy")
    assert [[row[key] for key in numbers] for row in rows] == [
        [row[key] for key in numbers] for row in expected
    ]


def test_images_are_kept_where_there_is_room_and_most_have_a_label(tmp_path):
    images = np.zeros((10, 8, 8, 3), np.uint8)
    source = data.open_source(folder_of(tmp_path, images, np.zeros(10, int)))
    source.labels = [0, 1, 0, 1, -1, -1, -1, -1, -1, -1]
    test = source.subset([0, 1, 2, 3])
    setting = judging.Setting(source, test, None, None)

    def made(free):
        found = evaluation_memory.with_kept_images(setting, free)
        return found.train, found.test

    train, test = made(4 * 4 * 8 * 8 * 3)
    assert train is source and test.memory.fits
    assert not made(4 * 4 * 8 * 8 * 3 - 4)[1].memory.fits

"""`~` in a path is the home folder, in whatever a task takes, and never a name."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tfssl import data
from tfssl.formats import keras_file
from tfssl.tasks import make_tfrecords, recorded, resolve, retrieve, show_views


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with images and a run, seen from another folder."""
    folder, here = tmp_path / "ada", tmp_path / "here"
    (folder / "images").mkdir(parents=True)
    here.mkdir()
    for i in range(3):
        png = tf.io.encode_png(np.full((8, 8, 3), 70 * i, np.uint8)).numpy()
        (folder / "images" / f"{i}.png").write_bytes(png)
    (folder / "list.csv").write_text("path\nimages/0.png\nimages/1.png\n")
    encoder = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    path = folder / "run" / "encoder.keras"
    keras_file.save(encoder, path, data.Preprocessing(size=8))
    (folder / "run" / "run.json").write_text(json.dumps({"settings": {"seed": 3}}))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here)
    yield folder
    assert not list(here.iterdir())


def test_data(home):
    del home
    for given, count in (
        ("~/images", 3),
        ("folder:~/images", 3),
        ("~/list.csv", 2),
        ("manifest:~/list.csv", 2),
    ):
        assert data.open_source(given).num_images == count
    assert data.open_source("~/list.csv", root="~/images").num_images == 2
    with pytest.raises(ValueError, match="data='/.*/ada/none' is no folder"):
        data.open_source("~/none")


def test_what_tasks_read_and_write(home):
    show_views.show_views("~/images", "~/views.png", image_size=8, num_images=2)
    index = make_tfrecords.make_tfrecords("~/images", "~/records", num_shards=1)
    assert make_tfrecords.verify("~/records/images.json").num_images == 3
    assert data.open_source("tfrecord:~/records/images.json").num_images == 3
    assert index == str(home / "records" / "images.json")
    assert len(tfssl.embed("~/run", "~/images", "~/features.npz").values) == 3
    assert recorded.settings_of("~/run")["seed"] == 3
    for name in ("views.png", "records", "features.npz"):
        assert (home / name).exists()
    with pytest.raises(ValueError, match="/ada/run"):
        resolve.checkpoint_path("~/run")
    with pytest.raises(ValueError, match="No encoder at '/.*/ada/none'"):
        retrieve.retrieve("~/none", "~/images", "~/truth", out="~/retrieval.json")


def test_the_folder_of_a_training(home):
    (home / "file").write_text("")
    with pytest.raises(ValueError, match="folder '/.*/ada/file/x' cannot be written"):
        tfssl.pretrain(
            "~/images", "~/file/x", image_size=8, batch_size=2, epochs=1,
            warmup_epochs=0.0, verbose=0,
            encoder=lambda shape: keras.Sequential(
                [keras.Input(shape), keras.layers.GlobalAveragePooling2D()]
            ),
        )  # fmt: skip

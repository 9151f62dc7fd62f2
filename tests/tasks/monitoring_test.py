import numpy as np

from tests.tasks import online_probe_test as probe
from tests.tasks import pretrain_test as small
from tfssl import data
from tfssl.tasks import monitoring, pretrain, trainer
from tfssl.training import monitors

SETTINGS = small.TINY | {"epochs": 2, "checkpoint_steps": 3, "keep": 9}


def test_the_largest_gradient_survives_a_kill_and_changes_nothing(tmp_path):
    watching = SETTINGS | {"watch_gradients": True}
    whole = pretrain.pretrain(small.images(), str(tmp_path / "whole"), **watching)
    largest = [line["largest_gradient"] for line in whole.history]
    assert all(value > 0 for value in largest) and len(set(largest)) == 2
    # Step 3 is inside of the first epoch of 5 steps, and 5 its end.
    for step in (3, 5):
        path = probe.killed_after(step, whole.path, tmp_path / f"resumed{step}")
        resumed = pretrain.pretrain(small.images(), path, **watching)
        assert [line["largest_gradient"] for line in resumed.history] == largest
    without = pretrain.pretrain(small.images(), str(tmp_path / "off"), **SETTINGS)
    assert "largest_gradient" not in without.history[0]
    assert without.history[-1]["loss"] == whole.history[-1]["loss"]


def test_only_the_images_of_the_bank_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "_BANK", 12)
    real, read = monitors.features_lib.Extractor.__call__, []

    def extract(self, dataset, batches=None):
        found = real(self, dataset, batches)
        read.append(found.index)
        return found

    monkeypatch.setattr(monitors.features_lib.Extractor, "__call__", extract)
    watching = {"validation_data": small.images(seed=1), "knn_epochs": 1}
    settings = small.TINY | watching | {"epochs": 2, "verbose": 2}
    pretrain.pretrain(small.images(), str(tmp_path), **settings)
    told = "kNN monitor: of 40 training images 12, drawn at random, are its bank"
    assert told in capsys.readouterr().out.splitlines()
    drawn = np.sort(np.random.default_rng(0).choice(40, 12, replace=False))
    for found, expected in zip(read, [drawn, np.arange(40)] * 2, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_fixed_images_are_of_all_classes(monkeypatch):
    monkeypatch.setattr(monitoring, "_MONITORED_IMAGES", 8)
    pixels, labels = small.images()
    by_class = np.argsort(labels, kind="stable")  # As folders are read.
    source = data.open_source((pixels[by_class], labels[by_class]))
    recipe = data.recipes.SIMCLR_DIGITS.scaled(8)
    plan = trainer.Plan(source, recipe, epochs=1, batch_size=8)
    images = monitoring.fixed_images(plan).numpy()
    top, bottom = (half.mean(axis=(1, 2, 3)) for half in np.split(images, 2, axis=1))
    assert (top > bottom).tolist() == [True] * 4 + [False] * 4

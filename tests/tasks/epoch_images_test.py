import types

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.pretrain_test import TINY, images
from tfssl import data, methods
from tfssl.tasks import epoch_images, pretrain, trainer


class Asking(methods.SimCLR):
    """Uses every hook between epochs, and trains on one image of 40 per epoch."""

    def __init__(self, encoder, *, name=None):
        super().__init__(encoder, projection_dim=8, name=name)
        self.calls = []
        self.trained = self.add_weight(
            name="trained", shape=(2,), dtype="int64", trainable=False
        )

    def before_epoch(self, epoch, images):
        whole = types.SimpleNamespace(transform=lambda features: features)
        rows, index = images.features(lambda moments: whole)
        views = next(images.views())
        self.calls.append((epoch, rows, index, views["index"].shape, images.count))

    def sampling(self, epoch, count):
        return np.full(count, 7 + epoch)

    def epoch_numbers(self):
        return {"largest_image": float(self.trained.numpy().max())}

    def train_step(self, batch):
        super().train_step(batch)
        index = batch["index"]
        self.trained.assign(tf.stack([tf.reduce_min(index), tf.reduce_max(index)]))


def test_a_method_gets_what_it_asks_for_and_draws_its_images(tmp_path, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "simclr", Asking)
    settings = TINY | {"epochs": 2, "hparams": None}
    run = pretrain.pretrain(images(), str(tmp_path), **settings)
    calls = run.method.calls
    assert [call[0] for call in calls] == [0, 1]
    for _, rows, index, of_views, count in calls:
        assert rows.shape == (40, run.method.feature_dim)
        np.testing.assert_array_equal(index, np.arange(40))
        assert tuple(of_views) == (8,) and count == 40
    assert np.abs(calls[0][1] - calls[1][1]).max() > 0  # An epoch lies between.
    np.testing.assert_array_equal(run.method.trained, [8, 8])
    assert [line["largest_image"] for line in run.history] == [7, 8]


def test_an_error_on_another_worker_is_raised_here_too():
    workers = types.SimpleNamespace(count=1, index=0, any=lambda *flags: (True,))
    plan = trainer.Plan(
        data.open_source(images()),
        data.recipes.SIMCLR_DIGITS.scaled(8),
        epochs=1,
        batch_size=8,
    )
    encoder = TINY["encoder"]((8, 8, 1))
    method = methods.DeepCluster(encoder, num_images=40, num_clusters=6)
    between = epoch_images.EpochImages(encoder, plan, workers, None, 8)
    with pytest.raises(ValueError, match="Another worker could not make the features"):
        method.before_epoch(0, between)

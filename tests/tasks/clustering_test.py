"""Runs of the methods that cluster their images, or assign them to prototypes."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.tasks.pretrain_test import (
    TINY,
    assert_same_runs,
    images,
    straight_and_interrupted,
    tiny_encoder,
)
from tfssl import data, kmeans
from tfssl.evaluation import clusters as clusters_lib
from tfssl.memory import Assignments
from tfssl.methods import DeepCluster
from tfssl.tasks import pretrain
from tfssl.training import strategy as strategies
from tfssl.training import workers as workers_lib

_HEAD = dict(projection_hidden=16, projection_dim=8)
CASES = {
    "deepcluster": dict(
        method="deepcluster",
        recipe="deepcluster_digits",
        hparams=dict(num_clusters=6, pca_components=4),
    ),
    "deepcluster_v2": dict(
        method="deepcluster_v2", hparams=dict(num_clusters=(5, 4)) | _HEAD
    ),
    "local_aggregation": dict(
        method="local_aggregation",
        recipe="deepcluster_digits",
        hparams=dict(
            num_clusters=(5, 4),
            background=12,
            negatives=8,
            warmup_epochs=0,
            projection_dim=8,
        ),
    ),
    "swav": dict(
        method="swav",
        hparams=dict(
            num_prototypes=6, queue_size=16, queue_epoch=0.4, freeze_epochs=0.4
        )
        | _HEAD,
    ),
}
CLUSTERING = ("deepcluster", "deepcluster_v2", "local_aggregation")


def run(out, name, source=None, **changes):
    settings = TINY | CASES[name] | changes
    return pretrain.pretrain(source or images(), str(out), **settings)


@pytest.mark.parametrize("save_at", [5, 6], ids=["between", "inside"])
@pytest.mark.parametrize("name", CASES)
def test_resume_equals_the_straight_run(name, save_at, tmp_path):
    """Saved between two clusterings, and in the middle of an epoch."""
    parts = straight_and_interrupted(tmp_path, save_at, **CASES[name])
    assert_same_runs(*parts)


@pytest.mark.parametrize("name", CLUSTERING)
def test_every_epoch_is_clustered_and_logged(name, tmp_path, monkeypatch):
    tables, model_class = [], pretrain.methods.METHODS[CASES[name]["method"]]
    real = model_class.reassign

    def spied(self, *args):
        before = self.assignments.clusters.numpy()
        found = real(self, *args)
        tables.append((before, self.assignments.clusters.numpy(), found))
        return found

    monkeypatch.setattr(model_class, "reassign", spied)
    history = run(tmp_path, name, epochs=3).history
    assert len(tables) == len(history) == 3
    for line, (before, after, found) in zip(history, tables):
        found = found if isinstance(found, list) else [found]
        sizes = np.concatenate([np.bincount(row[row >= 0]) for row in after])
        assert line["largest_cluster"] == sizes.max()
        assert line["smallest_cluster"] == sizes.min()
        assert line["empty_clusters"] == 0
        each = [c.objective / len(c.assignments) for c in found]
        assert line["kmeans_objective"] == pytest.approx(np.mean(each), rel=1e-5)
        known = (before >= 0).all()
        expected = [clusters_lib.nmi(*pair) for pair in zip(before, after)]
        expected = np.mean(expected) if known else 0
        assert line["cluster_nmi"] == pytest.approx(expected, rel=1e-5)
    assert not (tables[0][0] >= 0).any() and (tables[-1][1] >= 0).all()


def test_features_are_those_of_clean_images_in_their_order(tmp_path):
    """The last clustering, made again by hand from the finished encoder."""
    trained = run(tmp_path, "deepcluster", epochs=1, learning_rate=0.0)
    method = trained.method
    source = data.open_source(images())
    features = []
    for batch in data.labeled(source, trained.encoder.preprocessing, batch_size=40):
        features.append(trained.encoder(batch["image"], training=False))
    # Nothing learned, but batch norm's moving statistics have moved since.
    keras.utils.set_random_seed(0)
    fresh = TINY["encoder"]((8, 8, 1))
    fresh.set_weights(
        [
            new if "moving" in v.path else old
            for v, new, old in zip(
                fresh.variables,
                [np.zeros(v.shape) if "mean" in v.path else np.ones(v.shape)
                 for v in fresh.variables],
                trained.encoder.get_weights(),
            )
        ]
    )  # fmt: skip
    clean = np.concatenate(
        [
            fresh(batch["image"], training=False)
            for batch in data.labeled(source, trained.encoder.preprocessing)
        ]
    )[:40]
    moments = kmeans.Moments(8)
    moments.update(clean)
    rows = kmeans.pca(moments, components=4, whiten=True).transform(clean)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = kmeans.fit(rows, num_clusters=6, iterations=20, init="random", seed=0)
    np.testing.assert_array_equal(
        method.assignments.clusters.numpy()[0], expected.assignments
    )


def test_the_step_is_traced_once_over_all_epochs(tmp_path, monkeypatch):
    traces, real = [], DeepCluster.image_losses

    def counted(self, batch, training):
        traces.append(training)
        return real(self, batch, training)

    monkeypatch.setattr(DeepCluster, "image_losses", counted)
    run(tmp_path, "deepcluster", epochs=3)
    assert len(traces) == 1


def test_epochs_between_clusterings(tmp_path, monkeypatch):
    steps, real = [], DeepCluster.reassign

    def spied(self, *args):
        steps.append(int(self.step.numpy()))
        return real(self, *args)

    monkeypatch.setattr(DeepCluster, "reassign", spied)
    hparams = CASES["deepcluster"]["hparams"] | {"reassign_epochs": 2}
    run(tmp_path, "deepcluster", epochs=3, hparams=hparams)
    assert steps == [0, 10]


def test_an_unreadable_image_has_no_cluster_and_is_never_drawn(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels, _ = images()
    for number, image in enumerate(pixels):
        content = tf.io.encode_png(image).numpy()
        cut = len(content) // 2 if number == 17 else len(content)
        (folder / f"{number:02d}.png").write_bytes(content[:cut])
    trained = run(
        tmp_path / "run", "deepcluster", str(folder), channels=1, epochs=2,
        max_bad_fraction=0.1,
    )  # fmt: skip
    clusters = trained.method.assignments.clusters.numpy()[0]
    assert clusters[17] == -1 and (np.delete(clusters, 17) >= 0).all()
    assert 17 not in trained.method.sampling(0, 1000)
    assert int(trained.method.step.numpy()) == 10


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_train_like_one(name, tmp_path, mirrored):
    settings = dict(epochs=1, learning_rate=1e-5)  # Rounding must not grow.
    alone = run(tmp_path / "a", name, **settings)
    mirrored(2)  # Fresh collective keys for the strategy that the task makes.
    both = run(
        tmp_path / "b", name, strategy="mirrored", num_replicas=2, **settings
    )  # fmt: skip
    for key in ("loss", *(Assignments.NUMBERS if name in CLUSTERING else ())):
        expected = alone.history[-1][key]
        assert both.history[-1][key] == pytest.approx(expected, rel=1e-4), key


def test_clear_errors(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(images()[0])
    with pytest.raises(ValueError, match="read in sequence, but DeepCluster draws"):
        run(tmp_path / "a", "deepcluster", dataset)
    with pytest.raises(ValueError, match="num_clusters=50 received for 40 images"):
        run(tmp_path / "b", "deepcluster", hparams={"num_clusters": 50})
    for size, sentence in (
        (4, "queue_size=4 received for batches of 8 images; make the queue 8 or"),
        (6.5, "queue_size=6.5 received, expected a whole number, 0 or more"),
    ):
        hparams = CASES["swav"]["hparams"] | {"queue_size": size}
        with pytest.raises(ValueError, match=sentence):
            run(tmp_path / "e", "swav", hparams=hparams)
    assert not (tmp_path / "e").exists()
    hparams = CASES["swav"]["hparams"] | {"num_prototypes": 50}
    with pytest.raises(ValueError, match="num_prototypes=50 received for 40 images"):
        run(tmp_path / "c", "swav", hparams=hparams)
    with pytest.raises(ValueError, match=r"2 view\(s\) .* DeepCluster takes 1"):
        run(tmp_path / "d", "deepcluster", recipe="simclr_digits")


def test_the_first_embeddings_are_of_views_of_their_own(tmp_path, monkeypatch):
    seeds, real = [], data.multiview

    def spied(source, recipe, *, seed, **kwargs):
        seeds.append(seed)
        return real(source, recipe, seed=seed, **kwargs)

    monkeypatch.setattr(data, "multiview", spied)
    run(tmp_path, "deepcluster_v2", epochs=2, seed=7)
    assert seeds == [8, 7, 7]


def train_as_worker(folder):
    """What each of two workers runs, see below."""
    strategy = strategies.make("multi_worker")
    workers = workers_lib.Workers(strategy)
    found = {"index": workers.index}
    mine = np.arange(6).reshape(2, 3) + 10 * workers.index
    found["sum"] = workers.sum(mine)
    found["chiefs"] = workers.chiefs(mine)
    for name in CLUSTERING:
        trained = run(
            os.path.join(folder, name), name, epochs=2, learning_rate=1e-5,
            strategy="multi_worker",
        )  # fmt: skip
        found[name] = trained.method.assignments.clusters.numpy()
        found[f"{name} loss"] = trained.history[-1]["loss"]
    # More features than images: the number of images bounds the components.
    wide = run(
        os.path.join(folder, "wide"), "deepcluster", epochs=1, strategy="multi_worker",
        encoder=lambda shape: tiny_encoder(shape, width=48),
        hparams=dict(num_clusters=6, pca_components=256),
    )  # fmt: skip
    found["wide loss"] = wide.history[-1]["loss"]
    np.savez(os.path.join(folder, f"{workers.index}.npz"), **found)


def test_two_workers_cluster_like_one(tmp_path):
    command = [sys.executable, "-m", "tests.tasks.clustering_test", str(tmp_path)]
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    found = [dict(np.load(tmp_path / f"{i}.npz")) for i in range(2)]
    for i, one in enumerate(found):
        assert one["index"] == i
        np.testing.assert_array_equal(one["sum"], [[10, 12, 14], [16, 18, 20]])
        np.testing.assert_array_equal(one["chiefs"], [[0, 1, 2], [3, 4, 5]])
        assert one["chiefs"].dtype == np.int64
        assert np.isfinite(one["wide loss"])
    for name in CLUSTERING:
        alone = run(tmp_path / "alone" / name, name, epochs=2, learning_rate=1e-5)
        for one in found:
            np.testing.assert_array_equal(
                one[name], alone.method.assignments.clusters.numpy()
            )
            assert one[f"{name} loss"] == pytest.approx(
                alone.history[-1]["loss"], rel=1e-4
            )


if __name__ == "__main__":
    train_as_worker(sys.argv[1])

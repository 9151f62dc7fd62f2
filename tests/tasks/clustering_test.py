"""Runs of the methods that cluster their images, or assign them to prototypes."""

import functools
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import copied_runs
from tests.tasks.pretrain_test import (
    TINY,
    assert_same_runs,
    images,
    tiny_encoder,
)
from tfssl import data, kmeans
from tfssl.evaluation import clusters as clusters_lib
from tfssl.memory import Assignments
from tfssl.methods import METHODS, DeepCluster
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
QUICK = dict(optimizer="sgd", learning_rate=0.1)
SMALL_STEPS = dict(epochs=2, learning_rate=1e-5)  # Rounding must not grow.
CLUSTERING = ("deepcluster", "deepcluster_v2", "local_aggregation")


def run(out, name, source=None, **changes):
    settings = TINY | QUICK | CASES[name] | changes
    return pretrain.pretrain(source or images(), str(out), **settings)


class Watched:
    """A training of three epochs, and what its method was asked for."""

    def __init__(self, name, folder):
        self.folder = folder
        self.tables, self.seeds, self.traces = [], [], []
        model_class = METHODS[CASES[name]["method"]]
        multiview, image_losses = data.multiview, model_class.image_losses

        def views(source, recipe, *, seed, **kwargs):
            self.seeds.append(seed)
            return multiview(source, recipe, seed=seed, **kwargs)

        def losses(method, batch, training):
            self.traces.append(training)
            return image_losses(method, batch, training)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "multiview", views)
            patch.setattr(model_class, "image_losses", losses)
            if name in CLUSTERING:
                found = self._clustered(model_class.reassign)
                patch.setattr(model_class, "reassign", found)
            self.run = copied_runs.whole(self.train(name), folder, checkpoint_steps=1)

    def _clustered(self, reassign):
        def spied(method, *args):
            before = method.assignments.clusters.numpy()
            found = reassign(method, *args)
            self.tables.append((before, method.assignments.clusters.numpy(), found))
            return found

        return spied

    def train(self, name):
        return functools.partial(run, name=name, seed=7)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """`watched(name)`, trained when it is first asked for."""
    return functools.cache(lambda name: Watched(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize(
    "name, save_at",
    [
        ("deepcluster", 5),
        ("deepcluster", 6),
        ("deepcluster_v2", 5),
        ("deepcluster_v2", 6),
        pytest.param("local_aggregation", 5, marks=pytest.mark.slow),
        ("local_aggregation", 6),
        pytest.param("swav", 5, marks=pytest.mark.slow),
        ("swav", 6),
    ],
)
def test_resume_equals_the_straight_run(name, save_at, watched, tmp_path):
    """Saved between two clusterings, and in the middle of an epoch."""
    whole = watched(name)
    train = whole.train(name)
    parts = copied_runs.resumed(train, whole.folder, tmp_path / "parts", save_at)
    assert_same_runs(whole.run, parts)


@pytest.mark.parametrize("name", CLUSTERING)
def test_every_epoch_is_clustered_and_logged(name, watched):
    tables, history = watched(name).tables, watched(name).run.history
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


def test_the_step_is_traced_once_over_all_epochs(watched):
    assert len(watched("deepcluster").traces) == 1


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
        tmp_path / "run", "deepcluster", str(folder), channels=1, epochs=1,
        max_bad_fraction=0.1,
    )  # fmt: skip
    clusters = trained.method.assignments.clusters.numpy()[0]
    assert clusters[17] == -1 and (np.delete(clusters, 17) >= 0).all()
    assert 17 not in trained.method.sampling(0, 1000)
    assert int(trained.method.step.numpy()) == 5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """`alone(name)`, a run of one device, trained when it is first asked for."""

    def train(name):
        return run(tmp_path_factory.mktemp(name), name, **SMALL_STEPS)

    return functools.cache(train)


# In the step, replicas of all methods are compared in methods/contract_test.py.
@pytest.mark.parametrize(
    "name",
    [
        "deepcluster",
        "deepcluster_v2",
        pytest.param("local_aggregation", marks=pytest.mark.slow),
        pytest.param("swav", marks=pytest.mark.slow),
    ],
)
def test_two_replicas_train_like_one(name, alone, tmp_path, mirrored):
    expected = alone(name).history
    mirrored(2)  # Fresh collective keys for the strategy that the task makes.
    both = run(tmp_path, name, strategy="mirrored", num_replicas=2, **SMALL_STEPS)
    for key in ("loss", *(Assignments.NUMBERS if name in CLUSTERING else ())):
        for line, other in zip(expected, both.history, strict=True):
            assert other[key] == pytest.approx(line[key], rel=1e-4), key


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


def test_the_first_embeddings_are_of_views_of_their_own(watched):
    assert watched("deepcluster_v2").seeds == [8, 7, 7, 7]


def train_as_worker(folder, *names):
    """What each of two workers runs, see below."""
    strategy = strategies.make("multi_worker")
    workers = workers_lib.Workers(strategy)
    found = {"index": workers.index}
    mine = np.arange(6).reshape(2, 3) + 10 * workers.index
    found["sum"] = workers.sum(mine)
    found["chiefs"] = workers.chiefs(mine)
    multi_worker = SMALL_STEPS | {"strategy": "multi_worker"}
    for name in names:
        trained = run(os.path.join(folder, name), name, **multi_worker)
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


@pytest.mark.parametrize(
    "names",
    [
        ("deepcluster", "deepcluster_v2"),
        pytest.param(("local_aggregation",), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_two_workers_cluster_like_one(names, alone, tmp_path):
    module = "tests.tasks.clustering_test"
    command = [sys.executable, "-m", module, str(tmp_path), *names]
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    found = [dict(np.load(tmp_path / f"{i}.npz")) for i in range(2)]
    for i, one in enumerate(found):
        assert one["index"] == i
        np.testing.assert_array_equal(one["sum"], [[10, 12, 14], [16, 18, 20]])
        np.testing.assert_array_equal(one["chiefs"], [[0, 1, 2], [3, 4, 5]])
        assert one["chiefs"].dtype == np.int64
        assert np.isfinite(one["wide loss"])
    for name in names:
        expected = alone(name)
        for one in found:
            np.testing.assert_array_equal(
                one[name], expected.method.assignments.clusters.numpy()
            )
            assert one[f"{name} loss"] == pytest.approx(
                expected.history[-1]["loss"], rel=1e-4
            )


if __name__ == "__main__":
    train_as_worker(*sys.argv[1:])

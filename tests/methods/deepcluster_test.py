"""What is DeepCluster's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import cluster

from tests.methods.cases import batch_of, one_convolution, two_views
from tfssl import kmeans, methods


def make(optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    method = methods.DeepCluster(
        one_convolution(), **dict(num_images=20, num_clusters=4) | arguments
    )
    method.compile(optimizer or keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def groups(per_group=5, seed=0, spread=0.05):
    """20 rows around 4 directions of the plane, and the group of each."""
    rng = np.random.default_rng(seed)
    angles = np.repeat(np.arange(4) * math.pi / 2, per_group)
    angles = angles + spread * rng.normal(size=len(angles))
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lengths = rng.uniform(0.5, 2, size=(len(rows), 1))
    return (rows * lengths).astype("float32"), np.repeat(np.arange(4), per_group)


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist()))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_loss_is_the_cross_entropy_of_the_images_clusters():
    method = make()
    rng = np.random.default_rng(0)
    clusters = rng.integers(4, size=(1, 20))
    method.assignments.clusters.assign(clusters)
    method.classifier_bias.assign(rng.normal(size=4))
    view, index = two_views(5)[0] - 0.5, [3, 19, 0, 7, 7]
    values = method.image_losses(batch_of(view, index=index), training=True)
    features = np.maximum(method.encoder(view, training=True), 0)  # The last ReLU.
    assert (features == 0).any()
    logits = features @ np.array(method.classifier_kernel, np.float64)
    logits += np.array(method.classifier_bias)
    expected = [
        math.log(np.exp(row).sum()) - row[clusters[0, i]]
        for row, i in zip(logits, index)
    ]
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
    hits = logits.argmax(axis=1) == clusters[0, index]
    np.testing.assert_array_equal(values["cluster_accuracy"], hits)


def test_images_are_clustered_by_direction_and_unreadable_ones_left_out():
    rows, truth = groups()
    method = make(kmeans_init="k-means++")
    index = np.setdiff1d(np.arange(20), [2, 11])
    found = method.reassign(rows[index], index)
    clusters = method.assignments.clusters.numpy()[0]
    assert same_partition(clusters[index], truth[index])
    np.testing.assert_array_equal(clusters[[2, 11]], -1)
    unit = rows[index] / np.linalg.norm(rows[index], axis=1, keepdims=True)
    reference = cluster.KMeans(4, n_init=10, random_state=0).fit(unit)
    assert found.objective == pytest.approx(reference.inertia_, rel=1e-4)
    # All images, in order.
    method.reassign(rows)
    assert same_partition(method.assignments.clusters.numpy()[0], truth)


def test_every_clustering_has_a_start_of_its_own():
    """Of the seed and the step, so that a resumed run has it too."""
    rows = np.random.default_rng(2).normal(size=(20, 3)).astype("float32")
    method = make(kmeans_iterations=1, seed=3)
    found = []
    for step in (0, 7):
        method.step.assign(step)
        method.reassign(rows)
        expected = kmeans.fit(
            kmeans.unit_norm(rows),
            num_clusters=4,
            iterations=1,
            init="random",
            seed=3 + step,
        )
        found.append(method.assignments.clusters.numpy()[0])
        np.testing.assert_array_equal(found[-1], expected.assignments)
    assert (found[0] != found[1]).any()


def test_features_are_whitened_for_k_means():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3
    moments = kmeans.Moments(6)
    moments.update(features[:150].astype("float32"))
    moments.update(features[150:].astype("float32"))
    rows = make(pca_components=3).pca(moments).transform(features.astype("float32"))
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.eye(3), atol=1e-2)
    # Never more components than features.
    assert make(pca_components=256).pca(moments).transform(features).shape == (200, 6)
    few = kmeans.Moments(6)
    few.update(features[:4].astype("float32"))
    assert make(pca_components=256).pca(few).transform(features).shape == (200, 4)


def test_the_classifier_and_its_slots_start_anew():
    method = make(keras.optimizers.Adam(0.01), num_clusters=3)
    rows, _ = groups()
    method.reassign(rows)
    first = np.array(method.classifier_kernel)
    for step in range(3):
        method.train_step(batch_of(two_views(5, seed=step)[0]))

    def slots(part):
        return {
            v.path: np.abs(v).max()
            for v in method.optimizer.variables
            if part in v.path and ("momentum" in v.path or "velocity" in v.path)
        }

    assert all(slots("classifier").values())
    method.reassign(rows)
    assert not any(slots("classifier").values()) and len(slots("classifier")) == 4
    assert all(slots("conv2d").values()) and len(slots("conv2d")) == 4
    second = np.array(method.classifier_kernel)
    assert np.abs(first - second).max() > 0.001
    assert not np.array(method.classifier_bias).any()
    # The same step gives the same start: a resumed run does the same.
    method.restart_classifier()
    np.testing.assert_array_equal(second, method.classifier_kernel)
    wide = make(num_images=5000, num_clusters=3000)
    assert np.std(wide.classifier_kernel) == pytest.approx(0.01, rel=0.02)


def test_images_are_drawn_uniformly_over_clusters():
    method = make(num_images=1000, num_clusters=5)
    sizes = [1, 9, 90, 400, 490]  # And 10 images without a cluster.
    clusters = np.concatenate([np.repeat(np.arange(5), sizes), np.full(10, -1)])
    clusters = np.random.default_rng(0).permutation(clusters)
    method.assignments.clusters.assign(clusters[None])
    drawn = method.sampling(epoch=0, count=1000)
    assert drawn.shape == (1000,) and drawn.dtype == np.int64
    counts = np.bincount(clusters[drawn], minlength=5)
    # 201 of each of 5 clusters, of which 5 images fall off at the end.
    assert counts.sum() == 1000 and counts.max() == 201 and counts.min() >= 196
    for number, size in enumerate(sizes):
        images = drawn[clusters[drawn] == number]
        # Without repetition where the cluster is large enough.
        if size >= 201:
            assert len(set(images)) == len(images)
        elif size > 1:
            assert len(set(images)) > 0.8 * size
    assert not (clusters[drawn] == -1).any()
    # Shuffled: clusters do not come in blocks.
    assert len(set(clusters[drawn[:30]])) == 5
    np.testing.assert_array_equal(drawn, method.sampling(epoch=0, count=1000))
    assert (drawn != method.sampling(epoch=1, count=1000)).mean() > 0.5


def test_there_is_nothing_to_draw_before_the_first_clustering():
    with pytest.raises(ValueError, match="call reassign before the first epoch"):
        make().sampling(0, 20)


def test_nothing_is_learned_from_images_without_cluster():
    method = make()
    batch = batch_of(two_views(5)[0])
    with tf.GradientTape() as tape:
        losses = method.image_losses(batch, training=True)["loss"]
    gradients = tape.gradient(losses, [v.value for v in method.learned_variables])
    np.testing.assert_array_equal(losses, 0)
    assert not any(np.abs(g).max() for g in gradients if g is not None)


def test_what_a_run_is_told():
    method = make(num_images=50_000, num_clusters=10_000)
    assert method.notes(256, 50_000) == ["10,000 clusters, 5.0 images in the mean"]
    assert method.chance_loss(256) == pytest.approx(9.21, abs=0.001)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"num_clusters": 21}, "num_clusters=21 received for 20 images"),
        ({"num_clusters": 0}, "num_clusters=0 received"),
        ({"pca_components": 0}, "pca_components=0 received"),
        ({"reassign_epochs": 0}, "reassign_epochs=0 received"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_features_that_cannot_be_clustered_change_nothing():
    method = make()
    rows, _ = groups()
    method.reassign(rows)
    before = [np.array(v) for v in method.variables]
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match="(?i)nan"):
        method.reassign(rows)
    with pytest.raises(ValueError, match="4"):
        method.reassign(rows[:3], np.arange(3))
    for value, variable in zip(before, method.variables):
        np.testing.assert_array_equal(value, variable)

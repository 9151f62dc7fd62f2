"""What is DeepCluster-v2's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest

from tests.methods.cases import batch_of, one_convolution, two_views, unit
from tfssl import data, methods


def make(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(
        num_images=30, num_clusters=(4, 3), projection_hidden=8, projection_dim=3
    )
    method = methods.DeepClusterV2(one_convolution(), **small | arguments)
    method.compile(keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def filled(method, seed=0):
    """Embeddings in the banks as after an epoch, image 7 missing."""
    rng = np.random.default_rng(seed)
    for bank in method.banks:
        rows = unit(rng.normal(size=bank.rows.shape))
        rows[7] = 0
        bank.rows.assign(rows)
    return method


def test_loss_is_the_mean_over_views_and_clusterings():
    method = make(temperature=0.2)
    rng = np.random.default_rng(0)
    prototypes = [unit(rng.normal(size=p.shape)) for p in method.prototypes]
    clusters = [rng.integers(4, size=30), rng.integers(3, size=30)]
    for variable, value in zip(method.prototypes, prototypes):
        variable.assign(value)
    method.assignments.clusters.assign(clusters)
    views, index = [*two_views(5), two_views(5, seed=3)[0]], [4, 9, 0, 29, 11]
    values = method.image_losses(batch_of(*views, index=index), training=True)
    features = method.encoder(np.concatenate(views), training=True)
    z = np.split(unit(method.projector(features, training=True)), 3)
    expected, hits = np.zeros(5), np.zeros(5)
    for view in z:
        for c, y in zip(prototypes, clusters):
            for row, image in enumerate(index):
                logits = c @ view[row] / 0.2
                loss = math.log(np.exp(logits).sum()) - logits[y[image]]
                expected[row] += loss / (3 * 2)
                hits[row] += (logits.argmax() == y[image]) / (3 * 2)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(values["cluster_accuracy"], hits, rtol=1e-6)


def plain_spherical(rows, centroids, iterations):
    """11 E and 10 M steps of the authors' code; empty clusters keep their centroid."""
    for step in range(iterations + 1):
        nearest = (rows @ centroids.T).argmax(axis=1)
        if step == iterations:
            return nearest, centroids
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = rows[nearest == k].mean(axis=0)
        centroids = unit(centroids)


def test_the_banks_are_clustered_and_the_centroids_become_prototypes():
    method = filled(make())
    found = method.reassign()
    assert [len(c.sizes) for c in found] == [4, 3]
    clusters = method.assignments.clusters.numpy()
    np.testing.assert_array_equal(clusters[:, 7], -1)
    known = np.setdiff1d(np.arange(30), [7])
    for i, variable in enumerate(method.prototypes):
        prototypes = np.array(variable)
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-5)
        rows = np.array(method.banks[i].rows)[known]  # Clustering i is of view i.
        nearest = (rows @ prototypes.T).argmax(axis=1)
        np.testing.assert_array_equal(clusters[i, known], nearest)
        # Ten more updates of the same kind do not leave a fixed point, if it is one.
        again, _ = plain_spherical(rows, prototypes.copy(), 10)
        assert (again == nearest).mean() > 0.8


def test_clusters_and_prototypes_are_those_of_the_plain_form():
    """After two updates, which is before it stands still."""
    method = filled(make(num_clusters=(4, 3, 5), kmeans_iterations=2, seed=11))
    method.step.assign(70)
    method.reassign()
    known = np.setdiff1d(np.arange(30), [7])
    for i, variable in enumerate(method.prototypes):
        rows = np.array(method.banks[i % 2].rows, np.float64)[known]
        draw = np.random.default_rng(11 + 70 + i)
        start = rows[draw.choice(29, variable.shape[0], replace=False)]
        nearest, centroids = plain_spherical(rows, start.copy(), 2)
        clusters = method.assignments.clusters.numpy()[i, known]
        np.testing.assert_array_equal(clusters, nearest)
        np.testing.assert_allclose(variable, centroids, atol=1e-5)
        for updates in (1, 3):
            _, others = plain_spherical(rows, start.copy(), updates)
            assert np.abs(others - centroids).max() > 1e-3


def test_clusters_without_images_keep_their_centroids():
    method = make()
    for bank in method.banks:
        bank.rows.assign(np.tile(unit([[1, 2, 3]]), (30, 1)))
    first, second = method.reassign()
    assert sorted(first.sizes) == [0, 0, 0, 30] and sorted(second.sizes) == [0, 0, 30]
    for prototypes in method.prototypes:
        expected = np.broadcast_to(unit([[1, 2, 3]]), prototypes.shape)
        np.testing.assert_allclose(prototypes, expected, atol=1e-6)


def test_embeddings_are_stored_after_the_step_and_by_image():
    method = filled(make())
    method.reassign()
    before = [np.array(bank.rows) for bank in method.banks]
    views, index = two_views(5), [4, 9, 0, 29, 7]
    batch = batch_of(*views, index=index)
    z = method.image_losses(batch, training=True)["embeddings"]
    prototypes = [np.array(p) for p in method.prototypes]
    method.train_step(batch)
    for bank, old, new in zip(method.banks, before, z):
        np.testing.assert_allclose(np.array(bank.rows)[index], new, atol=1e-5)
        others = np.setdiff1d(np.arange(30), index)
        np.testing.assert_array_equal(np.array(bank.rows)[others], old[others])
    for variable, value in zip(method.prototypes, prototypes):
        np.testing.assert_array_equal(variable, value)


def test_filling_stores_embeddings_and_trains_nothing():
    method = make()
    trained = [np.array(v) for v in method.learned_variables]
    views = [*two_views(5), two_views(5)[0][:, :4, :4]]
    method.fill_step(batch_of(*views, index=[1, 2, 3, 4, 5]))
    features = method.encoder(np.concatenate(views[:2]), training=True)
    z = np.split(unit(method.projector(features, training=True)), 2)
    for bank, rows in zip(method.banks, z):
        np.testing.assert_allclose(np.array(bank.rows)[1:6], rows, atol=1e-5)
        assert not np.array(bank.rows)[[0, *range(6, 30)]].any()
    for value, variable in zip(trained, method.learned_variables):
        np.testing.assert_array_equal(value, variable)
    assert int(method.step.numpy()) == 0


def test_two_reassignments_of_one_state_are_the_same():
    method = filled(make())
    first = [c.assignments for c in method.reassign()]
    second = [c.assignments for c in method.reassign()]
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_clusterings_of_as_many_clusters_have_starts_of_their_own():
    method = filled(make(num_clusters=(4, 4, 4)))
    seen = []
    for step in (0, 7):
        method.step.assign(step)
        seen += [tuple(one.assignments.tolist()) for one in method.reassign()]
    assert len(set(seen)) == len(seen)


def test_one_clustering_may_be_given_as_a_number():
    method = make(num_clusters=7)
    assert method.num_clusters == (7,) and len(method.prototypes) == 1
    memory, clusters = method.notes(256, 30)
    assert memory.startswith("2 banks of 30 images by")
    assert clusters == "7 clusters of 30 images"
    paper = make(num_images=1_281_167, num_clusters=(3000,) * 3, projection_dim=1)
    assert paper.chance_loss(4096) == pytest.approx(8.006, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"num_clusters": (4, 31)}, r"num_clusters=\(4, 31\) received for 30 images"),
        ({"num_clusters": ()}, r"num_clusters=\(\) received"),
        ({"temperature": 0}, "temperature=0 received"),
        ({"kmeans_iterations": 0}, "kmeans_iterations=0 received"),
        ({"max_bank_gib": 1e-9}, r"max_bank_gib=1e-09 received, but 2 bank\(s\) of 30"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_more_clusters_than_images_of_full_batches_are_refused():
    source = data.open_source(np.zeros((30, 1, 1, 1), np.uint8))
    make(num_clusters=(20, 3)).check_run(20, source)
    with pytest.raises(
        ValueError, match=r"batches of 20 hold 20 of 30 images.* smaller"
    ):
        make(num_clusters=(3, 21)).check_run(20, source)


def test_a_bank_that_cannot_be_clustered_changes_nothing():
    method = filled(make())
    method.reassign()
    before = [np.array(v) for v in method.assignments.variables + method.prototypes]
    filled(method, seed=1)
    rows = np.array(method.banks[1].rows)
    rows[3] = np.nan
    method.banks[1].rows.assign(rows)
    with pytest.raises(ValueError, match="(?i)nan"):
        method.reassign()
    for value, variable in zip(
        before, method.assignments.variables + method.prototypes
    ):
        np.testing.assert_array_equal(value, variable)
    with pytest.raises(ValueError, match="only 0 images have an embedding; fill"):
        make().reassign()

"""What is local aggregation's own; contract_test.py has what every method promises."""

import types

import keras
import numpy as np
import pytest

from tests.losses import neighbours_test
from tests.methods.cases import batch_of, one_convolution, two_views, unit
from tfssl import methods
from tfssl.training import workers

_INDEX = [4, 9, 0, 29, 11]


def make(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(
        num_images=30,
        num_clusters=(4, 3),
        background=9,
        temperature=neighbours_test._TAU,
        projection_dim=4,
        negatives=8,
        loss="softmax",
        warmup_epochs=0,
    )
    method = methods.LocalAggregation(one_convolution(), **small | arguments)
    method.compile(keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def embedded(method, view):
    return unit(method.projector(method.encoder(view, training=True), training=True))


def images(batches=()):
    return types.SimpleNamespace(
        workers=workers.Workers(), views=lambda: iter(batches), steps=len(batches)
    )


def test_the_loss_is_that_of_close_among_all_neighbours():
    method, view = make(), two_views(5)[0]
    method.reassign()
    bank = np.array(method.contrast.bank.rows)
    values = method.image_losses(batch_of(view, index=_INDEX), training=True)
    clusters = method.assignments.clusters.numpy()
    expected = neighbours_test.slow(embedded(method, view), bank, _INDEX, clusters, 9)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4, atol=1e-5)
    method.train_step(batch_of(view, index=_INDEX))
    moved = np.abs(np.array(method.contrast.bank.rows) - bank).max(1)
    assert sorted(np.flatnonzero(moved)) == sorted(_INDEX)


def test_it_begins_as_instance_discrimination():
    begun = make(warmup_epochs=2, steps_per_epoch=3)
    npid = methods.NPID(
        begun.encoder,
        num_images=30,
        negatives=8,
        loss="softmax",
        temperature=begun.temperature,
        projection_dim=4,
    )
    npid.projector.set_weights(begun.projector.get_weights())
    batch = batch_of(two_views(5)[0], index=_INDEX)
    begun.reassign()
    for step in (0, 5):
        for method in (begun, npid):
            method.step.assign(step)
        found, expected = (m.image_losses(batch, training=True) for m in (begun, npid))
        for key in ("loss", "contrastive_accuracy"):
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-5)
    begun.step.assign(6)
    after = begun.image_losses(batch, training=True)["loss"]
    alone = make()
    alone.reassign()  # The same seed and step give the same clusters.
    begun.assignments.clusters.assign(alone.assignments.clusters)
    expected = alone.image_losses(batch, training=True)["loss"]
    after = begun.image_losses(batch, training=True)["loss"]
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_clusters_are_those_of_the_bank():
    method = make()
    found = method.reassign()
    assert [len(one.sizes) for one in found] == [4, 3]
    bank, clusters = np.array(method.contrast.bank.rows), method.assignments.clusters
    for one, assigned in zip(found, clusters.numpy()):
        distances = np.square(bank[:, None] - one.centroids).sum(-1)
        np.testing.assert_array_equal(assigned, distances.argmin(1))


def test_clusterings_of_as_many_clusters_have_starts_of_their_own():
    method = make(num_clusters=(4, 4, 4))
    seen = []
    for step in (0, 7):
        method.step.assign(step)
        method.reassign()
        seen += method.assignments.clusters.numpy().tolist()
    assert len(set(map(tuple, seen))) == len(seen)


def test_the_bank_is_clustered_from_the_end_of_the_warm_up_on():
    method = make(warmup_epochs=2, steps_per_epoch=5, reassign_epochs=2)
    seen, unlike = [], method.assignments.clusters
    for epoch in range(7):
        unlike.assign(np.full((2, 30), 99 if max(seen, default=False) else -1))
        method.before_epoch(epoch, images())
        seen.append(0 <= unlike.numpy().min() < 99)
    assert seen == [False, False, True, False, True, False, True]
    assert method.epoch_numbers()["kmeans_objective"] > 0


def test_a_run_that_finds_itself_behind_the_warm_up_clusters_at_once():
    """Another batch size moved it there, into an epoch or past the first clustering."""
    method = make(warmup_epochs=2, steps_per_epoch=5, reassign_epochs=2)
    assert not method.is_behind(1) and method.is_behind(3)
    method.before_epoch(3, images())
    assert method.assignments.clusters.numpy().min() >= 0
    assert not method.is_behind(3)


def test_without_a_warm_up_the_bank_is_filled_first():
    method, view = make(), two_views(5)[0]
    z = embedded(method, view)
    before = np.array(method.contrast.bank.rows)
    method.before_epoch(0, images([batch_of(view, index=_INDEX)]))
    bank = np.array(method.contrast.bank.rows)
    np.testing.assert_allclose(bank[_INDEX], z, atol=1e-5)
    untouched = np.setdiff1d(np.arange(30), _INDEX)
    np.testing.assert_array_equal(bank[untouched], before[untouched])
    assert method.assignments.clusters.numpy().min() >= 0


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(num_clusters=(4, 31)), r"num_clusters=\(4, 31\) received for 30 images"),
        (dict(background=0), "background=0 received"),
        (dict(negatives=0), "negatives=0 received"),
        (dict(warmup_epochs=1), "steps_per_epoch=None received"),
        (dict(max_bank_gib=1e-9), "max_bank_gib=1e-09 received"),
    ],
)
def test_settings_that_cannot_work(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**given)


def test_what_it_says_at_the_start():
    told = make(warmup_epochs=2, steps_per_epoch=3, background=4096).notes(8, 30)
    assert told[-1] == (
        "2 epochs of instance discrimination, then 30 neighbours, 4 + 3 clusters of 30 "
        "images"
    )
    with pytest.raises(ValueError, match="batch_size=30 received for 30 images"):
        make().check_run(30, None)

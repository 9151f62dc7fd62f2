import types

import keras
import numpy as np
import pytest

from tests.methods.case_table import BATCH
from tests.methods.cases import batches, make
from tfssl import kmeans
from tfssl.memory import Assignments
from tfssl.methods import reclustering


def workers(chiefs=lambda value: value, count=1):
    return types.SimpleNamespace(chiefs=chiefs, count=count, is_chief=True)


def clustering_of(assignments, rows):
    """What a method does: clusters 6 images, the last of which cannot be read."""

    def cluster():
        found = kmeans.fit(np.float32(rows)[:, None], num_clusters=2, init="k-means++")
        assignments.clusters.assign([[*found.assignments, -1]])
        return [found]

    return cluster


def test_the_numbers_say_how_clusters_are_and_have_changed():
    assignments = Assignments(6)
    first = clustering_of(assignments, [0, 0, 0, 8, 9])
    reclustering.renew(assignments, first, epoch=0, workers=workers())
    numbers = assignments.named_numbers()
    assert tuple(numbers) == Assignments.NUMBERS
    # Two squares of 0.5, over five images.
    assert numbers["kmeans_objective"] == pytest.approx(0.1)
    assert numbers["cluster_nmi"] == 0  # There was none before.
    assert (numbers["largest_cluster"], numbers["smallest_cluster"]) == (3, 2)
    assert numbers["empty_clusters"] == 0
    again = clustering_of(assignments, [7, 7, 7, 0, 0])
    reclustering.renew(assignments, again, epoch=1, workers=workers())
    assert assignments.named_numbers()["cluster_nmi"] == 1


def test_all_workers_take_what_the_chief_has():
    assignments = Assignments(6)
    centroids = keras.Variable(np.zeros(2, np.float32))
    reclustering.renew(
        assignments,
        clustering_of(assignments, [0, 0, 0, 8, 9]),
        epoch=0,
        workers=workers(lambda value: np.full_like(value, 7), count=2),
        centroids=[centroids],
    )
    for variable in (assignments.clusters, assignments.numbers, centroids):
        assert (variable.numpy() == 7).all()


def without_clusters(name, **arguments):
    method = make(name, **arguments)
    method.assignments.clusters.assign(-np.ones(method.assignments.clusters.shape))
    return method


def by_hand(method, stream):
    if not hasattr(method, "fill_step"):
        rows = method.encoder.predict(stream.map(lambda b: b["views"]["view_0"]))
        return lambda *_: method.reassign(rows, np.arange(len(rows)))
    method.fill(iter(stream), 2)
    return lambda *_: method.reassign()


@pytest.mark.parametrize("name", ["deepcluster", "deepcluster_v2", "local_aggregation"])
def test_fit_refuses_to_train_without_clusters_until_there_are_some(name):
    method, stream = without_clusters(name), batches(name, 2).batch(BATCH)
    told = r"have no clusters.* tfssl.pretrain, or call .*reassign\(.* every epoch"
    with pytest.raises(ValueError, match=told):
        method.fit(stream, verbose=0)
    with pytest.raises(ValueError, match=told):
        method.train_on_batch(next(iter(stream)))
    assert int(method.step.numpy()) == 0
    before = keras.callbacks.LambdaCallback(on_epoch_begin=by_hand(method, stream))
    losses = method.fit(stream, epochs=2, callbacks=[before], verbose=0).history["loss"]
    assert min(losses) > 0 and int(method.step.numpy()) == 4


def test_the_warm_up_needs_no_clusters_and_ends_where_they_are_needed():
    method = without_clusters("local_aggregation_begins")
    stream = batches("local_aggregation_begins", 2).batch(BATCH)
    with pytest.raises(ValueError, match="LocalAggregation received .* no clusters"):
        method.fit(stream, epochs=2, verbose=0)
    assert int(method.step.numpy()) == 2
    method.reassign()
    method.fit(stream, verbose=0)
    assert int(method.step.numpy()) == 4


def test_no_step_of_an_execution_is_beyond_the_warm_up():
    method = without_clusters("local_aggregation_begins", steps_per_execution=3)
    with pytest.raises(ValueError, match="LocalAggregation received .* no clusters"):
        method.fit(batches("local_aggregation_begins", 3).batch(BATCH), verbose=0)
    assert int(method.step.numpy()) == 0

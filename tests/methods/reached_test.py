"""The places of replicas in a stream of which some images cannot be read."""

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl.data import pipeline
from tfssl.methods import reached as reached_lib


def reached_of(strategy):
    with strategy.scope():
        position = tf.Variable(np.int64(0), trainable=False)
        return reached_lib.Reached(position), position


def advance(strategy, reached, rows):
    """A step on the positions of each replica's images."""
    parts = iter(rows)
    local = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(next(parts), tf.int64)
    )

    @tf.function
    def step(local):
        strategy.run(reached.advance, args=(local,))

    step(local)


def test_every_replica_has_its_place(mirrored):
    strategy = mirrored(4)
    reached, position = reached_of(strategy)
    assert reached.each() == [0] * 4 and reached.start((1, 2)) == 0
    advance(strategy, reached, [[0, 1], [2, 3], [4, 5], [14, 15]])
    assert reached.each() == [2, 4, 6, 16] and int(position.numpy()) == 16
    assert [reached.start((worker, 2)) for worker in range(2)] == [4, 16]
    other, position = reached_of(strategy)
    position.assign(16)
    other.restore(reached.each())
    assert other.start((0, 2)) == 4


@pytest.mark.parametrize("each", [None, [16], [2, 4, 6, 15]])
def test_places_that_are_not_known_are_the_furthest(mirrored, each):
    reached, position = reached_of(mirrored(4))
    position.assign(16)
    reached.restore(each)
    assert [reached.start((worker, 2)) for worker in range(2)] == [16, 16]


def test_one_replica_stands_at_the_position():
    reached, position = reached_of(tf.distribute.get_strategy())
    reached.advance(tf.constant([3, 7], tf.int64))
    assert int(position.numpy()) == reached.start((0, 1)) == 8
    assert reached.each() == [8]
    reached.restore([5])
    assert reached.each() == [8]


@pytest.mark.parametrize(
    "kind", [pytest.param("folder", marks=pytest.mark.slow), "sequence"]
)
def test_a_resume_by_the_places_is_no_break(tmp_path, kind, mirrored):
    if kind == "folder":
        source, _ = made.folder_of(tmp_path / "data")
    else:
        source = made.encoded_sequence([3, 8, 9])

    def rows_of(worker, batches, start=0):
        return made.rows_of(
            source,
            batches,
            made.recipe()[:1],
            augment=False,
            start=start,
            shard=(worker, 2),
            bad_files=pipeline.BadFiles(max_fraction=0.2),
        )

    wholes = [rows_of(worker, 18) for worker in range(2)]
    following = np.array([rows["position"][1:-6:2] + 1 for rows in wholes])
    steps = np.abs(following[0] - following[1]).argmax()  # Where they are apart.
    places = following[:, steps].tolist()
    reached, position = reached_of(mirrored(2))
    position.assign(max(places))
    reached.restore(places)
    starts = [reached.start((worker, 2)) for worker in range(2)]
    assert abs(starts[0] - starts[1]) > made.BATCH
    for worker, (start, whole) in enumerate(zip(starts, wholes)):
        low = 2 * int(steps + 1)
        made.assert_same(rows_of(worker, 3, start), made.cut(whole, low, low + 6))

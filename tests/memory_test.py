import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import memory
from tfssl import replicas as replicas_lib


def _rows(start, count, dim=3):
    return tf.cast(tf.reshape(tf.range(start, start + count), (-1, 1)), tf.float32) * [
        [1.0] * dim
    ]


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_the_ring_holds_the_newest_rows(batch):
    """Against a plain list, also where the batch does not divide the queue."""
    queue = memory.FeatureQueue(7, 3)
    slow = list(queue.contents().numpy())
    pointer = 0
    for step in range(6):
        rows = _rows(100 * step, batch)
        queue.enqueue(rows)
        for row in rows.numpy():
            slow[pointer] = row
            pointer = (pointer + 1) % 7
        np.testing.assert_array_equal(queue.contents(), slow)
        assert int(queue.pointer.numpy()) == pointer


def test_it_starts_with_unit_directions_that_differ():
    queue = memory.FeatureQueue(500, 16)
    rows = queue.contents().numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    # Independent directions: mean cosine 0, standard deviation 1 / sqrt(16).
    cosines = (rows @ rows.T)[np.triu_indices(500, 1)]
    assert abs(cosines.mean()) < 0.01
    assert cosines.std() == pytest.approx(0.25, rel=0.02)


def test_contents_have_no_gradient_and_enqueue_stops_it():
    queue = memory.FeatureQueue(4, 3)
    x = tf.ones((2, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        queue.enqueue(x)
        loss = tf.reduce_sum(queue.contents() * 2)
    assert tape.gradient(loss, [x, queue.rows.value]) == [None, None]
    assert queue.trainable_variables == []


def test_every_row_is_on_one_replica(mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        queue = memory.FeatureQueue(6, 3)
        uneven = memory.FeatureQueue(7, 3)
    run = tf.function(lambda: strategy.run(queue.local_rows))
    parts = strategy.experimental_local_results(run())
    np.testing.assert_array_equal(np.concatenate(parts), queue.contents())
    assert [len(part) for part in parts] == [3, 3]
    np.testing.assert_array_equal(queue.local_rows(), queue.contents())  # One device.
    with pytest.raises(ValueError, match="queue_size=7 does not divide over 2 .* 6"):
        tf.function(lambda: strategy.run(uneven.local_rows))()


def test_rows_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        queue = memory.FeatureQueue(4, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    queue.enqueue(tf.fill((2, 3), tf.constant(0.5, tf.float16)))
    assert queue.contents().dtype == tf.float32


def test_too_many_rows_and_bad_sizes():
    with pytest.raises(
        ValueError, match="queue_size=4 received for batches of 9 .* queue 9 or"
    ):
        memory.FeatureQueue(4, 3).enqueue(tf.zeros((9, 3)))
    with pytest.raises(ValueError, match="size=0, dim=3"):
        memory.FeatureQueue(0, 3)


@pytest.mark.parametrize("replicas", [2, 4])
def test_copies_on_replicas_stay_equal(mirrored, replicas):
    strategy = mirrored(replicas)
    with strategy.scope():
        queue = memory.FeatureQueue(10, 3)
    rows = _rows(0, 8)
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.split(rows, replicas)[context.replica_id_in_sync_group]
    )

    @tf.function
    def step(local):
        strategy.run(
            lambda x: queue.enqueue(replicas_lib.gather_rows(x)[0]), args=(local,)
        )

    step(parts)
    for copy in strategy.experimental_local_results(queue.rows.value):
        np.testing.assert_array_equal(copy[:8], rows)


@pytest.mark.parametrize("count", [1, 2])
def test_a_bank_holds_the_last_row_of_every_image(mirrored, count):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        bank = memory.MemoryBank(9, 3)
    slow = np.zeros((9, 3), np.float32)

    @tf.function
    def write(index, rows):
        strategy.run(bank.write, (index, rows))

    rng = np.random.default_rng(0)
    for _ in range(4):
        index, rows = rng.permutation(9)[:4], rng.normal(size=(4, 3))
        write(tf.constant(index, tf.int64), tf.constant(rows, tf.float16))
        slow[index] = rows.astype("float16")
        for copy in strategy.experimental_local_results(bank.rows.value):
            np.testing.assert_array_equal(copy, slow)


def test_assignments_start_unknown_and_are_looked_up_by_image():
    table = memory.Assignments(5, 2)
    np.testing.assert_array_equal(table.of(tf.constant([0, 4], tf.int64)), -1)
    assert not np.array(table.numbers).any()
    table.clusters.assign([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    found = table.of(tf.constant([4, 0, 4], tf.int64))
    np.testing.assert_array_equal(found, [[5, 3, 5], [3, 9, 3]])
    assert not table.trainable_variables


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: memory.MemoryBank(0, 3), "num_images=0, dim=3 was asked for"),
        (lambda: memory.Assignments(3, 0), r"0 clustering\(s\) of 3 images"),
    ],
)
def test_empty_memories_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()

import itertools

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
        index[3] = index[1]  # The first of several rows counts.
        write(tf.constant(index, tf.int64), tf.constant(rows, tf.float16))
        slow[index[:3]] = rows[:3].astype("float16")
        for copy in strategy.experimental_local_results(bank.rows.value):
            np.testing.assert_array_equal(copy, slow)


def test_a_bank_may_start_with_directions_of_its_seed_and_name():
    make = lambda **kwargs: np.array(  # noqa: E731
        memory.MemoryBank(200, 16, initializer="unit", **kwargs).rows
    )
    rows = make(seed=1)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    cosines = (rows @ rows.T)[np.triu_indices(200, 1)]
    assert abs(cosines.mean()) < 0.01 and cosines.std() == pytest.approx(0.25, rel=0.05)
    np.testing.assert_array_equal(rows, make(seed=1))
    for other in (make(seed=2), make(seed=1, name="other")):
        assert np.abs(rows - other).max() > 0.1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_bank_moves_the_rows_of_an_index(mirrored, count, jit):
    if count > 1 and jit:
        pytest.skip("XLA compiles on one replica")
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        bank = memory.MemoryBank(9, 3, initializer="unit")
    slow = np.array(bank.rows)
    start = slow.copy()

    @tf.function(jit_compile=jit)
    def update(index, rows):
        old = bank.rows_of(index)
        bank.update(index, rows, 0.3)
        return old, bank.rows_of(index)

    rng = np.random.default_rng(0)
    for index in ([4, 0, 7], [8, 4, 1], [4, 4, 2]):
        rows = rng.normal(size=(3, 3))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        before = slow.copy()
        for place in reversed(range(3)):  # The first of several rows counts.
            moved = 0.3 * before[index[place]] + 0.7 * rows[place]
            slow[index[place]] = moved / np.linalg.norm(moved)
        found = strategy.run(update, (tf.constant(index, tf.int64), rows))
        for value, expected in zip(found, (before[index], slow[index])):
            for copy in strategy.experimental_local_results(value):
                np.testing.assert_allclose(copy, expected, atol=1e-6)
        for copy in strategy.experimental_local_results(bank.rows.value):
            np.testing.assert_allclose(copy, slow, atol=1e-6)
    np.testing.assert_array_equal(np.array(bank.rows)[[3, 5, 6]], start[[3, 5, 6]])


def test_rows_of_a_bank_have_no_gradient():
    bank = memory.MemoryBank(4, 3, initializer="unit")
    with tf.GradientTape() as tape:
        tape.watch(bank.rows.value)
        loss = tf.reduce_sum(bank.rows_of(tf.constant([1, 2]))) + tf.reduce_sum(
            bank.contents()
        )
    assert tape.gradient(loss, bank.rows.value) is None
    assert not bank.trainable_variables


def drawn(index, step=0, *, num_images=7, count=400, seed=3):
    index = tf.cast(index, tf.int64)
    settings = dict(num_images=num_images, count=count, seed=seed)
    return memory.others(index, step=tf.cast(step, tf.int64), **settings)


def test_negatives_are_all_images_but_those_of_the_batch():
    """Every batch of up to three of seven images, in every order, with repetitions."""
    draw = tf.function(drawn)
    for size in (1, 2, 3):
        for number, index in enumerate(itertools.product(range(7), repeat=size)):
            found = draw(tf.constant(index, tf.int64), tf.constant(number, tf.int64))
            assert set(found.numpy()) == set(range(7)) - set(index), index


def test_negatives_are_as_likely_as_each_other():
    found = drawn([5, 2, 5, 0], count=21000, num_images=10)
    counts = np.bincount(found, minlength=10)
    assert not counts[[0, 2, 5]].any()
    left = np.delete(counts, [0, 2, 5])
    assert (np.square(left - 3000) / 3000).sum() < 22  # Of 6 degrees.


def test_negatives_are_a_function_of_seed_and_step():
    once = drawn([1, 2], step=5, num_images=10**6).numpy()
    np.testing.assert_array_equal(once, drawn([2, 1, 2], 5, num_images=10**6))
    for other in (
        drawn([1, 2], step=6, num_images=10**6),
        drawn([1, 2], step=5, num_images=10**6, seed=4),
    ):
        assert len(np.intersect1d(once, other)) < 5
    compiled = tf.function(drawn, jit_compile=True)(
        tf.constant([1, 2], tf.int64), tf.constant(5, tf.int64), num_images=10**6
    )
    np.testing.assert_array_equal(once, compiled)
    one = drawn(range(6), count=9)  # One image is left.
    np.testing.assert_array_equal(one, 6)


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
        (
            lambda: memory.MemoryBank(3, 3, initializer="ones"),
            "initializer='ones' received for a bank",
        ),
        (lambda: memory.Assignments(3, 0), r"0 clustering\(s\) of 3 images"),
    ],
)
def test_empty_memories_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()

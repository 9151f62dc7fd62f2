import numpy as np
import pytest
import tensorflow as tf

from tfssl import replicas


def run(strategy, function, rows):
    """Runs `function(local rows)` on each replica; returns its list of results."""
    count = strategy.num_replicas_in_sync
    parts = np.split(rows, count)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )

    @tf.function
    def step(local):
        return strategy.run(function, args=(local,))

    results = step(values)
    return [
        tf.nest.map_structure(
            lambda v, i=i: strategy.experimental_local_results(v)[i].numpy(), results
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_gather_rows_stacks_in_replica_order(mirrored, count, dtype):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    rows = np.arange(24).reshape(8, 3).astype(dtype)
    for i, (everything, offset) in enumerate(run(strategy, replicas.gather_rows, rows)):
        assert everything.dtype == rows.dtype
        np.testing.assert_array_equal(everything, rows)
        assert offset == i * 8 // count


@pytest.mark.parametrize("count", [2, 4])
def test_a_tpu_sends_whole_numbers_of_64_bits_in_halves(mirrored, count, monkeypatch):
    """Its sums over cores take no int64, see tests/methods/tpu_test.py."""
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "TPU")
    numbers = [0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**40 + 3, -(2**41) - 5]
    numbers += [2**62 + 7, 2**63 - 1, -(2**63), 2**52 - 1]
    rows = np.array(numbers, dtype=np.int64)
    for shape in ((12,), (4, 3)):
        given = rows.reshape(shape)
        found = run(mirrored(count), replicas.gather_rows, given)
        for i, (everything, offset) in enumerate(found):
            assert everything.dtype == np.int64
            np.testing.assert_array_equal(everything, given)
            assert offset == i * shape[0] // count


@pytest.mark.parametrize("count", [1, 2])
def test_sums_of_each_are_sums_of_all_replicas(mirrored, count):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)

    def function(local):
        return replicas.sum_of_each([local, tf.reduce_sum(local, axis=0)])

    for first, second in run(strategy, function, rows):
        np.testing.assert_array_equal(first, sum(np.split(rows, count)))
        np.testing.assert_array_equal(second, rows.sum(axis=0))


@pytest.mark.parametrize("count", [2, 4])
def test_gradient_of_a_gathered_row_returns_to_its_replica(mirrored, count):
    strategy = mirrored(count)
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    weights = np.random.default_rng(1).normal(size=(8, 8)).astype("float32")

    def function(local):
        with tf.GradientTape() as tape:
            tape.watch(local)
            everything, offset = replicas.gather_rows(local)
            mine = tf.gather(weights, offset + tf.range(len(local)))
            # A loss of the local rows against all rows.
            loss = tf.reduce_sum(tf.tanh(local @ tf.transpose(everything)) * mine)
        return tape.gradient(loss, local)

    found = np.concatenate(run(strategy, function, rows))
    whole = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(whole)
        loss = tf.reduce_sum(tf.tanh(whole @ tf.transpose(whole)) * weights)
    np.testing.assert_allclose(found, tape.gradient(loss, whole), atol=2e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sums_and_means(mirrored, count):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    rows = np.arange(4, dtype="float32")[:, None] * [1.0, -1.0]

    def function(local):
        total = tf.reduce_sum(local, axis=0)
        return (
            replicas.sum_over_replicas(total),
            replicas.mean_over_replicas(total),
        )

    for total, mean in run(strategy, function, rows.astype("float32")):
        np.testing.assert_allclose(total, [6, -6])
        np.testing.assert_allclose(mean, np.array([6, -6]) / count)


@pytest.mark.parametrize("count", [1, 4])
def test_replicas_are_numbered(mirrored, count):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    found = run(strategy, lambda _: replicas.replica_index(), np.zeros((4, 1)))
    assert [int(number) for number in found] == list(range(count))


def test_cross_replica_use_is_refused(mirrored):
    with mirrored(2).scope(), pytest.raises(RuntimeError, match="cross-replica"):
        replicas.sum_over_replicas(tf.constant(1.0))


def test_the_only_gpu_is_that_of_one_replica(mirrored, monkeypatch):
    default = tf.distribute.get_strategy()
    for strategy in (default, mirrored(1), mirrored(2)):
        assert replicas.single_gpu(strategy) is None
        assert replicas.kind_of_devices(strategy) == "CPU"
    gpus = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    assert replicas.single_gpu(default) == "/device:GPU:0"
    assert replicas.kind_of_devices(default) == "GPU"
    assert replicas.kind_of_devices(mirrored(2)) == "CPU"
    assert replicas.single_gpu(mirrored(1)) is None  # It is on a CPU.
    assert replicas.single_gpu(mirrored(2)) is None


def test_alone_a_replica_counts_for_itself(mirrored):
    strategy = mirrored(2)

    @tf.function
    def run():
        def on_replica():
            index = tf.cast(replicas.replica_index(), tf.float32)
            with replicas.alone():
                count = replicas.num_replicas()
                own = replicas.mean_over_replicas(index)
                there = replicas.replica_index()
            return tf.stack(
                [own, tf.cast(there, tf.float32), count]
            ), replicas.mean_of_each([tf.fill([2], index), tf.fill([1, 3], 2 * index)])

        return strategy.run(on_replica)

    alone, (first, second) = run()
    found = strategy.experimental_local_results(alone)
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, 1, 1]])
    for x, value in ((first, [0.5, 0.5]), (second, [[1, 1, 1]])):
        for local in strategy.experimental_local_results(x):
            np.testing.assert_array_equal(local, value)

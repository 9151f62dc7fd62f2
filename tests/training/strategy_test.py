import numpy as np
import pytest
import tensorflow as tf

from tfssl.training import strategy as strategies


def test_names():
    assert strategies.make("default").num_replicas_in_sync == 1
    assert strategies.make("mirrored", num_replicas=2).num_replicas_in_sync == 2
    with pytest.raises(ValueError, match=r"strategy='nccl' received, expected one of"):
        strategies.make("nccl")
    with pytest.raises(ValueError, match="num_replicas=2 received with strategy='def"):
        strategies.make("default", num_replicas=2)
    with pytest.raises(ValueError, match=r"num_replicas=9 received, but 4 CPU"):
        strategies.make("mirrored", num_replicas=9)


def test_a_missing_tpu_is_said_in_one_sentence():
    with pytest.raises(ValueError, match="no TPU answered"):
        strategies.make("tpu", tpu="local")


def test_batch_must_divide(mirrored):
    assert strategies.per_replica_batch(mirrored(4), 12) == 3
    with pytest.raises(ValueError, match=r"batch_size=10 .* use 8 or 12"):
        strategies.per_replica_batch(mirrored(4), 10)
    with pytest.raises(ValueError, match=r"batch_size=3 .* use 4 or 4"):
        strategies.per_replica_batch(mirrored(4), 3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_replicas_get_the_rows_of_the_global_batch_in_order(mirrored, count):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    shards = []

    def make(shard):
        shards.append(shard)
        return tf.data.Dataset.range(24).batch(8)

    iterator = iter(strategies.distribute(strategy, make, 8))
    for step in range(3):
        parts = strategy.experimental_local_results(next(iterator))
        assert len(parts) == count
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(8) + 8 * step)
    assert shards == [(0, 1)]

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tfssl import replicas
from tfssl.training import strategy as strategies
from tfssl.training import workers


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


@pytest.fixture
def starts(monkeypatch):
    """Names of the TPUs that were started, of which each answers."""
    found = []

    class Started:
        def __init__(self, name):
            self.name = name

    cluster, tpu = tf.distribute.cluster_resolver, tf.tpu.experimental
    monkeypatch.setattr(cluster, "TPUClusterResolver", lambda name: name)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda name: None)
    monkeypatch.setattr(tpu, "initialize_tpu_system", found.append)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Started)
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    strategies._tpu_strategy.cache_clear()
    yield found
    strategies._tpu_strategy.cache_clear()
    tf.config.experimental.enable_tensor_float_32_execution(rounded)


def test_a_tpu_is_started_once(starts):
    """A second start loses the variables of an earlier training."""
    first = strategies.make("tpu", tpu="local")
    assert strategies.make("tpu", tpu="local") is first
    assert strategies.make("tpu") is strategies.make("tpu", tpu="") is not first
    assert starts == ["local", ""]


def test_products_of_float32_are_in_float32_on_a_tpu(starts):
    """Said of what XLA is asked for: a TPU that does it there is none here."""
    square = tf.ones((4, 4))

    def asked():
        product = tf.function(lambda a: tf.matmul(a, a), jit_compile=True)
        return product.experimental_get_compiler_ir(square)("hlo")

    exact = "operand_precision={highest,highest}"
    assert exact not in asked()
    strategies.make("tpu")
    assert exact in asked()


def test_batch_must_divide(mirrored):
    assert strategies.per_replica_batch(mirrored(4), 12) == 3
    with pytest.raises(ValueError, match=r"batch_size=10 .* use 8 or 12"):
        strategies.per_replica_batch(mirrored(4), 10)
    with pytest.raises(ValueError, match=r"batch_size=3 .* use 4 or 4"):
        strategies.per_replica_batch(mirrored(4), 3)


@pytest.mark.parametrize(
    "count, batch_size, expected",
    [(1, 4096, 4096), (4, 4096, 1024), (4, 512, 256), (4, 64, 64), (1, 2, 8)],
)
def test_a_pass_on_one_device_takes_what_it_bears(
    count, batch_size, expected, mirrored
):
    strategy = mirrored(count) if count > 1 else tf.distribute.get_strategy()
    assert strategies.images_at_once(strategy, batch_size) == expected


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


def test_batches_are_copied_ahead_where_there_is_one_gpu(monkeypatch, mirrored):
    made = tf.data.Dataset.range(24).batch(8)
    default = tf.distribute.get_strategy()
    assert strategies.distribute(default, lambda shard: made, 8) is made
    # No GPU here: the copy goes to the CPU.
    monkeypatch.setattr(replicas, "single_gpu", lambda strategy: "/CPU:0")
    ahead = strategies.distribute(default, lambda shard: made, 8)
    assert ahead is not made
    assert [b.numpy().tolist() for b in ahead] == [b.numpy().tolist() for b in made]
    # A strategy with a scope copies by itself.
    with mirrored(1).scope():
        strategy = tf.distribute.get_strategy()
        assert strategies.distribute(strategy, lambda shard: made, 8) is made


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
        '"task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_wrong_tf_config_is_shown_beside_a_right_one(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    for use in (strategies.make, strategies.is_chief):
        with pytest.raises(ValueError, match=r"TF_CONFIG=.*expected something like {"):
            use("multi_worker")


def test_the_chief_is_known_before_the_strategy(monkeypatch):
    def chief(cluster, job, index):
        task = {"type": job, "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        return strategies.is_chief("multi_worker")

    alike = {"worker": ["a:1", "b:1"]}
    assert chief(alike, "worker", 0) and not chief(alike, "worker", 1)
    named = {"chief": ["c:1"], "worker": ["a:1"]}
    assert chief(named, "chief", 0) and not chief(named, "worker", 0)
    assert strategies.is_chief("mirrored")


def test_a_worker_that_is_told_to_end_before_it_trains_ends():
    """TensorFlow's coordination takes SIGTERM over, and would do nothing then."""
    ends = processes.run(2, [sys.executable, "-m", "tests.training.strategy_test"])
    assert [end.code for end in ends] == [-signal.SIGTERM] * 2, ends[0].stderr
    assert "made" in ends[0].stdout


if __name__ == "__main__":
    workers.Workers(strategies.make("multi_worker")).part()
    print("made", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

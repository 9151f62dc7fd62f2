"""Which devices train: the strategies by name, and the input each one gets."""

import contextlib
import functools
import json
import os
import signal
import threading

import tensorflow as tf

from tfssl import checks, files, internals, replicas
from tfssl.training import workers

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")
_AHEAD = 2  # Batches that wait for their step.
_BUSY = 256  # Images of a pass, of which more make no device faster.


def make(name="default", *, num_replicas=None, tpu=None):
    """A `tf.distribute.Strategy` by name.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this host; on a
            host without GPUs, logical CPU devices, for tests), `"multi_worker"` (all
            GPUs, or the CPU, of every host in the environment variable TF_CONFIG;
            must be made before TensorFlow runs its first operation, and waits until
            every worker has started) or `"tpu"` (one strategy for each name of a TPU,
            as long as the process lasts, in which products of float32 are then not
            rounded, neither to bfloat16 nor on a GPU to TF32).
        num_replicas: int or None. For `mirrored`: how many devices to use; None
            takes all GPUs. On a CPU host the devices are made on demand, which
            must happen before TensorFlow runs its first operation.
        tpu: name or address of the TPU for `"tpu"`; `"local"` on a TPU VM.

    Raises:
        ValueError: for an unknown name, more replicas than devices, a TF_CONFIG that
            is missing or wrong, or no TPU.
    """
    checks.one_of({"strategy": name}, "strategy", STRATEGIES)
    for argument, value, owner in (
        ("num_replicas", None if num_replicas == 1 else num_replicas, "mirrored"),
        ("tpu", tpu, "tpu"),
    ):
        if value and name != owner:
            raise ValueError(
                f"{argument}={value!r} received with strategy={name!r}; it is for "
                f"strategy={owner!r} only."
            )
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        internals.part_collectives()
        return tf.distribute.MirroredStrategy(_devices(num_replicas))
    if name == "multi_worker":
        return _multi_worker_strategy()
    return _tpu_strategy(tpu or "")


def _multi_worker_strategy():
    cluster, job, index = _task_of_environment()
    try:
        with _signals_kept():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.UnknownError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"strategy='multi_worker' received, but {cluster[job][index]}, the address "
            f"of this worker in TF_CONFIG, cannot be used ({error}); take a free port."
        ) from error
    except tf.errors.OpError as error:
        raise workers.WorkerLost(
            f"The workers did not come together ({error}); start all of them again "
            "with the same command."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            "strategy='multi_worker' must be made before TensorFlow runs its first "
            f"operation ({error}); start the training in a fresh process."
        ) from error


@contextlib.contextmanager
def _signals_kept():
    """Leaves the handling of SIGTERM as it was.

    TensorFlow's coordination takes it over, and a process that is told to end would not
    before its training asks for signals.
    """
    try:
        yield
    finally:
        handler = signal.getsignal(signal.SIGTERM)
        main = threading.current_thread() is threading.main_thread()
        if main and handler is not None:  # None: not one of Python's.
            signal.signal(signal.SIGTERM, handler)


def is_chief(name):
    """Whether this process writes the files of a run under the strategy `name`.

    Known before the strategy is made; afterwards `workers.Workers` says the same.

    Raises:
        ValueError: if TF_CONFIG is missing or wrong.
    """
    if name != "multi_worker":
        return True
    cluster, job, index = _task_of_environment()
    return index == 0 and job == ("chief" if "chief" in cluster else "worker")


def _task_of_environment():
    """`(cluster, job, index)` of TF_CONFIG, checked."""
    text = os.environ.get("TF_CONFIG", "")
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": '
        '"worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        job, index = task["type"], int(task["index"])
        known = set(cluster) <= {"chief", "worker"} and all(cluster.values())
        if known and 0 <= index < len(cluster[job]):
            return cluster, job, index
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(
        f"strategy='multi_worker' received with TF_CONFIG={text!r}, expected something "
        f"like {example} with this process's own index."
    )


def _devices(num_replicas):
    gpus = tf.config.list_logical_devices("GPU") if _has_gpu() else []
    if gpus:
        wanted = num_replicas or len(gpus)
        kind, found = "GPU", len(gpus)
    else:
        wanted = num_replicas or 2
        kind, found = "CPU", _logical_cpus(wanted)
    if wanted > found:
        raise ValueError(
            f"num_replicas={wanted} received, but {found} {kind} device(s) can be "
            "used; lower num_replicas, or make the devices before TensorFlow's "
            "first operation."
        )
    return [f"{kind}:{i}" for i in range(wanted)]


def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def _logical_cpus(wanted):
    cpu = tf.config.list_physical_devices("CPU")[0]
    # RuntimeError: TensorFlow has started; what exists now is all there is.
    with contextlib.suppress(RuntimeError):
        if not tf.config.get_logical_device_configuration(cpu):
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
            )
    return len(tf.config.list_logical_devices("CPU"))


@functools.cache  # To start a TPU again is to lose all variables that it has.
def _tpu_strategy(tpu):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (OSError, ValueError, tf.errors.OpError) as error:
        first = files.reason_of(error)
        raise ValueError(
            f"strategy='tpu' received, but no TPU answered ({first}); pass its "
            "name or address, 'local' on a TPU VM, or another strategy."
        ) from error
    # Else a TPU rounds to bfloat16 what products of float32 take: losses, statistics.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf.distribute.TPUStrategy(resolver)


def per_replica_batch(strategy, batch_size):
    """The part of a global batch that one replica gets.

    Raises:
        ValueError: if the global batch does not divide.
    """
    count = strategy.num_replicas_in_sync
    if batch_size % count:
        lower = batch_size // count * count
        raise ValueError(
            f"batch_size={batch_size} (global) does not divide over {count} "
            f"replicas; use {lower or count} or {lower + count}."
        )
    return batch_size // count


def images_at_once(strategy, batch_size):
    """How many images one device is given at once in a pass without gradients.

    As many as a replica trains on: those the device surely bears, and the global batch
    it may not. Of small batches four times as many, up to 256, which keep a device
    busy: a training step holds what all layers (or with remat all blocks) give for all
    views and as much again in gradients, such a pass that of one or two layers.

    Args:
        strategy: a `tf.distribute.Strategy`.
        batch_size: int, the global batch of the training.

    Raises:
        ValueError: if the global batch does not divide.
    """
    rows = per_replica_batch(strategy, batch_size)
    return max(rows, min(4 * rows, _BUSY))


def distribute(strategy, make_dataset, batch_size):
    """The training input of a strategy, each host making only its own rows.

    Args:
        strategy: a `tf.distribute.Strategy`.
        make_dataset: function `shard -> tf.data.Dataset`, where `shard` is
            `(worker, workers)`; the dataset yields that worker's rows of every
            global batch.
        batch_size: int, the global batch.

    Returns:
        A dataset that `Method.fit` accepts.
    """
    rows = per_replica_batch(strategy, batch_size)
    if strategy.num_replicas_in_sync == 1:
        return _to_device(make_dataset((0, 1)), _target(strategy))

    def of_worker(context):
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        # A host's rows, cut into one batch per replica, in replica order.
        return make_dataset(shard).rebatch(rows, drop_remainder=True).prefetch(_AHEAD)

    return strategy.distribute_datasets_from_function(of_worker)


def _target(strategy):
    """The device that batches are to be copied to, or None.

    Strategies with a scope copy them by themselves; a CPU reads them where they are.
    """
    return None if tf.distribute.has_strategy() else replicas.single_gpu(strategy)


def _to_device(dataset, device):
    """The same batches, copied ahead of their step."""
    if device is None:
        return dataset
    # Batches that wait are not trained on yet: a resumed run makes them again.
    return dataset.apply(tf.data.experimental.prefetch_to_device(device, _AHEAD))

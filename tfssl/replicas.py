"""The only module that talks to `tf.distribute` inside a step.

Every function but those about devices works on one replica (where it is the
identity), under `MirroredStrategy`, `MultiWorkerMirroredStrategy` and `TPUStrategy`,
and lets gradients through: the gradient of a gathered row reaches the replica that made
the row. Results are equal on all replicas, so they may be written to variables.
"""

import contextlib
import functools
import threading

import tensorflow as tf

_here = threading.local()


def _replica_context():
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "tfssl.replicas was called in cross-replica context; call it inside "
            "strategy.run (a train_step or test_step)."
        )
    return context


def num_replicas():
    """Number of replicas that take part in this step, a Python int."""
    return 1 if getattr(_here, "alone", False) else _all_replicas()


def _all_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def alone():
    """Context of this thread in which a replica exchanges nothing with others.

    They count as none: a mean over replicas is the replica's own value. `replica_index`
    stays what it is.
    """
    return _alone(True)


def as_here():
    """A function whose context counts replicas as they are counted here.

    For a gradient, which is traced later than its function, outside of its contexts.
    """
    return functools.partial(_alone, getattr(_here, "alone", False))


@contextlib.contextmanager
def _alone(value):
    before = getattr(_here, "alone", False)
    _here.alone = value
    try:
        yield
    finally:
        _here.alone = before


def single_gpu(strategy):
    """The name of the one GPU that a strategy trains on, or None if there is no one."""
    if strategy.num_replicas_in_sync > 1:
        return None
    return next((name for name in _devices(strategy) if "GPU" in name), None)


def kind_of_devices(strategy):
    """What a strategy trains on: `"GPU"`, `"TPU"` or `"CPU"`."""
    names = _devices(strategy)
    found = (kind for kind in ("GPU", "TPU") if any(kind in name for name in names))
    return next(found, "CPU")


def _devices(strategy):
    try:
        return strategy.extended.worker_devices
    except RuntimeError:  # The default strategy takes the first GPU.
        return [device.name for device in tf.config.list_logical_devices("GPU")]


def copy_to_each(strategy, tensor):
    """Copies a tensor to every device that a strategy trains on in this process.

    Args:
        strategy: a `tf.distribute.Strategy`.
        tensor: eager tensor.

    Returns:
        What `strategy.run` gives each replica the copy of its own device of.
    """
    places = iter(_devices(strategy) or ["CPU:0"])

    def copied(_):
        with tf.device(next(places)):
            return tf.identity(tensor)

    if strategy.num_replicas_in_sync == 1:
        return copied(None)
    return strategy.experimental_distribute_values_from_function(copied)


def replica_index():
    """Number of this replica among all, an int32 scalar tensor."""
    if _all_replicas() == 1:
        return tf.constant(0, tf.int32)
    return tf.cast(_replica_context().replica_id_in_sync_group, tf.int32)


def gather_rows(rows):
    """Stacks the rows of all replicas, in replica order.

    Written as a zero-padded sum over replicas: static shapes (XLA, TPU), and a
    gradient that returns to the replica each row came from.

    Args:
        rows: tensor `(batch, …)`, the same shape and dtype on every replica.

    Returns:
        `(all_rows, offset)`: a tensor `(num_replicas * batch, …)` of the same
        dtype, and the int32 position of this replica's first row in it.
    """
    count = num_replicas()
    rows = tf.identity(rows)  # A raw input of a worker has no device yet.
    if count == 1:
        return rows, tf.constant(0, tf.int32)
    context, position = _replica_context(), replica_index()
    values, as_rows = _to_send(rows)
    padded = in_slot(values, position, count)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, padded)
    shape = tf.shape(values)
    flat = tf.reshape(total, tf.concat([[count * shape[0]], shape[1:]], axis=0))
    if rows.shape[0] is not None:
        flat = tf.ensure_shape(flat, [count * rows.shape[0], *values.shape[1:]])
    return as_rows(flat), position * shape[0]


def _to_send(rows):
    """Rows in a dtype that replicas add up, and what makes rows of that again."""
    kind = rows.dtype
    if kind in (tf.bool, tf.uint8, tf.int8, tf.int16, tf.uint16):
        return tf.cast(rows, tf.int32), lambda sent: tf.cast(sent, kind)
    on_tpu = kind_of_devices(tf.distribute.get_strategy()) == "TPU"
    if kind == tf.int64 and on_tpu:  # Where sums have 32 bits.
        halves = tf.stack([tf.bitwise.right_shift(rows, 32), rows], axis=-1)
        return tf.bitcast(tf.cast(halves, tf.uint32), tf.int32), _of_halves
    return rows, lambda sent: sent


def _of_halves(halves):
    halves = tf.cast(tf.bitcast(halves, tf.uint32), tf.int64)
    high, low = tf.unstack(halves, axis=-1)
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(high, 32), low)


def in_slot(tensor, position, count):
    """`(count, …)`, zero but for the tensor at `position`.

    The sum of it over `count` replicas stacks their tensors, in replica order.
    """
    slots = tf.one_hot(position, count, dtype=tensor.dtype)
    return tf.reshape(slots, [count] + [1] * len(tensor.shape)) * tensor[tf.newaxis]


def sum_over_replicas(tensor):
    """Elementwise sum of `tensor` over all replicas; gradients flow through."""
    if num_replicas() == 1:
        return tf.identity(tensor)
    return _replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, tf.identity(tensor)
    )


def sum_of_each(tensors):
    """`sum_over_replicas` of a list of tensors, in one exchange."""
    tensors = [tf.identity(tensor) for tensor in tensors]
    if num_replicas() == 1:
        return tensors
    return _replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def mean_over_replicas(tensor):
    """Elementwise mean of a floating `tensor` over all replicas."""
    return sum_over_replicas(tensor) / tf.cast(num_replicas(), tensor.dtype)


def mean_of_each(tensors):
    """`mean_over_replicas` of floating tensors, a list, in one exchange.

    Args:
        tensors: of one dtype and of known shapes.
    """
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    parts = tf.split(mean_over_replicas(flat), sizes)
    return [tf.reshape(part, t.shape) for part, t in zip(parts, tensors)]

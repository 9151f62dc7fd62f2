"""Views made by other hosts (tf.data service), in the order of a local pipeline.

tf.data service has no mode that keeps the order over several of its workers: each
either makes the whole dataset or takes whatever comes next. So the order is kept here.
An address is a dispatcher with ONE worker, and the batches of a training process are
dealt to the addresses like cards: batch `n` is made by address `n % count`, and taken
in turn. Every address makes its share in order, so the sequence is that of a local
pipeline, batch by batch, and no batch is made twice.
"""

import contextlib
import re
import socket

import tensorflow as tf

from tfssl import python_calls
from tfssl.data import bad_files

# Why an image is left out that can be read in this process.
NOT_THERE = (
    "it can be read here, but not by the data service, which needs it under the same "
    "path"
)
_SCHEME = "grpc://"
_PATIENCE = 20.0  # Seconds to wait for an answer.
_IGNORE_STATE = tf.data.experimental.ExternalStatePolicy.IGNORE
_ORDER_BROKEN = "a data service gave a batch twice or out of order"
# A service that was started anew does not know what was asked of the one before.
_LOST = re.compile(
    r"[Ii]teration client|[Dd]ispatcher|[Dd]ataset id|[Ff]ailed to connect|grpc"
)


def addresses(text):
    """`"grpc://host:port,grpc://host:port"` -> list of addresses.

    Raises:
        ValueError: for anything else.
    """
    found = [part.strip() for part in text.split(",")]
    for part in found:
        host, _, port = part.removeprefix(_SCHEME).rpartition(":")
        if not part.startswith(_SCHEME) or not host or not port.isdigit():
            raise ValueError(
                f"data_service={text!r} received, expected grpc://host:port, or "
                "several of them with commas between."
            )
    if len(set(found)) < len(found):
        raise ValueError(f"data_service={text!r} names an address twice.")
    return found


def made_at(address, dataset):
    """The same dataset, made by the service at an address.

    Args:
        address: of a dispatcher with one worker.
        dataset: of tuples of tensors, the first of them `(rows,)` int64 and growing
            from batch to batch.

    Raises:
        ValueError: if nothing answers there, if two services do, or the dataset cannot
            leave this process.
    """
    _check_answers(address)
    _check_without_python(dataset)
    options = tf.data.Options()
    # The seeds of a shuffle count as state, but travel with the pipeline.
    options.experimental_external_state_policy = _IGNORE_STATE
    distribute = tf.data.experimental.service.distribute(
        tf.data.experimental.service.ShardingPolicy.OFF, address
    )
    try:
        remote = dataset.with_options(options).apply(distribute)
    except tf.errors.NotFoundError as error:
        raise ValueError(
            f"The data service at {address} does not know the data that it was just "
            "given: two services share this address, or it was started anew; stop all "
            "but one and start the training again."
        ) from error
    return remote.scan(tf.constant(tf.int64.min, tf.int64), _in_order)


def _check_without_python(dataset):
    """Raises if the dataset calls Python, which stays behind in this process.

    The service would take it, and fail, or pass over every image as unreadable.
    """
    graph = tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        external_state_policy=_IGNORE_STATE.value,
    )
    if python_calls.within(tf.compat.v1.GraphDef.FromString(graph.numpy())):
        raise ValueError(
            "The data calls Python functions (tf.py_function, numpy_function or a "
            "generator), which a data service does not have; train without "
            "data_service, or read the images from files."
        )


def in_turn(hands):
    """The batches of `hands`, one of each in turn."""
    if len(hands) == 1:
        return hands[0]
    turns = tf.data.Dataset.range(len(hands)).repeat()
    return tf.data.Dataset.choose_from_datasets(hands, turns)


def _in_order(last, batch):
    numbers = bad_files.tried(batch[0])
    # A mark (see `bad_files.readable`) repeats the number of the element before it.
    follows = (numbers[0] > last) | ((batch[0][0] < 0) & (numbers[0] == last))
    check = tf.debugging.Assert(follows, [_ORDER_BROKEN])
    with tf.control_dependencies([check] if check is not None else []):
        return numbers[-1], batch


@contextlib.contextmanager
def errors_explained():
    """Raises the plain sentence where a service broke the order."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _ORDER_BROKEN not in str(error):
            raise
        raise ValueError(
            f"{_ORDER_BROKEN.capitalize()}: each address of data_service must be a "
            "dispatcher with exactly one worker; start one dispatcher per worker."
        ) from error


def lost(error):
    """The sentence for an error that tells of a service's end, or None."""
    if not _LOST.search(str(error)):
        return None
    return "A data service was lost or started anew"


def answers(address, patience=_PATIENCE):
    """Whether something accepts a connection at an address."""
    return _refusal(address, patience) is None


def _check_answers(address):
    error = _refusal(address, _PATIENCE)
    if error:
        raise ValueError(
            f"No data service answers at {address} ({error}); start it with "
            "tfssl-data-service, or correct data_service."
        ) from error


def _refusal(address, patience):
    host, _, port = address.removeprefix(_SCHEME).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), patience).close()
    except OSError as error:
        return error
    return None

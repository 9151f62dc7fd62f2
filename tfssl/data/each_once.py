"""From a source to batches of its images, each once and in order, for evaluation."""

import numpy as np
import tensorflow as tf

from tfssl.data import bad_files as bad_files_lib
from tfssl.data import passes, running
from tfssl.data.bad_files import BadFiles


@running.as_written
def labeled(
    source,
    preprocessing,
    *,
    batch_size=256,
    indices=None,
    bad_files=None,
    num_parallel_calls=None,
):
    """Every image once, prepared for evaluation.

    Args:
        source: a `sources.Source`, with or without labels.
        preprocessing: `preprocessing.Preprocessing`.
        batch_size: int.
        indices: int array of the wanted images, in order; None takes all. A source
            that is read in sequence gives them in its own order.
        bad_files: as for `pipeline.multiview`.
        num_parallel_calls: parallel maps; None takes two per core.

    Returns:
        Finite `tf.data.Dataset` of `{"image": float32 (batch, size, size,
        channels), "label": int64 (-1 without labels; for images with any number of
        classes int8 (batch, classes) of 1, 0 and -1), "index": int64, "mask":
        bool}`. The last batch is filled with copies of its first row, mask False.

    Raises:
        ValueError: if the channels do not match, or no image can be read.
    """
    if source.channels != preprocessing.channels:
        raise ValueError(
            f"{source.name} has {source.channels} channels, but the preprocessing is "
            f"for {preprocessing.channels}; open the data with "
            f"channels={preprocessing.channels}."
        )
    labels = source.known_labels
    if labels is None:
        labels = np.full(source.num_images, -1, np.int64)
    source = source.ready()
    parallel = num_parallel_calls or running.parallel()
    order, raw = _in_order(source, indices, parallel)

    def make(raw):
        image = source.decode(raw, preprocessing.side)
        if source.max_value != preprocessing.max_value:
            scale = preprocessing.max_value / source.max_value
            image = tf.cast(image, tf.float32) * scale
        return preprocessing.apply(image)

    def prepare(ordinal, element):
        index, content = element
        ordinal = passes.numbered(ordinal, index)
        label = tf.gather(tf.constant(labels), tf.maximum(index, 0))
        return ordinal, index, make(content), label

    elements = raw.enumerate().map(prepare, num_parallel_calls=parallel)
    if source.encoded:
        bad_files = bad_files or BadFiles()
        bad_files_lib.check(source, bad_files, make)
        index_of = lambda ordinal: order[ordinal]  # noqa: E731
        batches = bad_files_lib.skip(
            elements, batch_size, 0, index_of, source, bad_files, end=len(order)
        )
    else:
        batches = elements.batch(batch_size)

    def fill(_, index, image, label):
        found = tf.shape(index)[0]
        rows = tf.range(batch_size)
        rows = tf.where(rows < found, rows, 0)
        return {
            "image": tf.gather(image, rows),
            "label": tf.gather(label, rows),
            "index": tf.gather(index, rows),
            "mask": tf.range(batch_size) < found,
        }

    dataset = batches.map(fill).prefetch(running.AHEAD)
    return dataset.with_options(running.options())


def _in_order(source, indices, parallel):
    """The indices of the wanted images, and a dataset of `(index, raw)`."""
    order = np.arange(source.num_images) if indices is None else np.asarray(indices)
    order = order.astype(np.int64)
    if len(order) and not 0 <= order.min() <= order.max() < source.num_images:
        raise ValueError(
            f"Indices from {order.min()} to {order.max()} received for "
            f"{source.name}, which has images 0 to {source.num_images - 1}."
        )
    if source.random_access:
        dataset = tf.data.Dataset.from_tensor_slices(order)
        read = lambda index: (index, source.read(index))  # noqa: E731
        return order, dataset.map(read, num_parallel_calls=parallel)
    if indices is None:
        return order, source.stream()
    return np.unique(order), passes.renumbered(source, order, order)


def some(source, count):
    """Images that stand for a source: evenly spaced, as folders lie class by class.

    Args:
        source: a `sources.Source`. One that is read in sequence gives its first images:
            the way to others is through all before them.
        count: int, how many at most.

    Returns:
        int64 `(min(count, num_images),)`, their numbers, ascending.
    """
    count = min(count, source.num_images)
    numbers = np.arange(count, dtype=np.int64)
    return numbers * source.num_images // count if source.random_access else numbers

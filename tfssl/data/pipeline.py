"""From a source to batches: training views, and labelled images for evaluation.

The training stream is a pure function of its position `p`:

* `epoch_size = (num_images // batch_size) * batch_size`, `epoch = p // epoch_size`:
  batches never straddle epochs, and each epoch leaves out other images;
* the image is a stateless shuffle of `p % epoch_size` under (seed, epoch): no
  image twice in an epoch, no memory, no state;
* the views' random numbers are drawn per global batch under (seed, batch), and
  every worker slices its own rows.

So any worker can start anywhere, and a resumed run meets the next image exactly.
"""

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import image_ops, recipes
from tfssl.data import views as views_lib

_AUTOTUNE = tf.data.AUTOTUNE
# Sequential sources shuffle in a buffer of at most this many bytes.
_SHUFFLE_BYTES = 256 << 20
_FOREVER = np.int64(2) ** 62
_FIRST_TRIES = 16


class BadFiles:
    """Counts images that could not be decoded, and stops when there are too many.

    Args:
        max_fraction: share of the source's images that may be unreadable.
        log: log each file once, when it is met.

    Attributes:
        files: what the unreadable images are called, in the order they were met.
        error: the message of the error that stopped the pipeline, or None.
    """

    def __init__(self, max_fraction=0.01, *, log=True):
        if not 0 <= max_fraction <= 1:
            raise ValueError(
                f"max_fraction={max_fraction} received, expected a share in [0, 1]."
            )
        self.max_fraction = max_fraction
        self.files = []
        self.error = None
        self._log = log

    @property
    def count(self):
        """How many different images were unreadable."""
        return len(self.files)

    def add(self, names, source):
        """Records unreadable images of a source.

        Raises:
            ValueError: once they are more than `max_fraction` of it.
        """
        for name in names:
            if name not in self.files:
                self.files.append(name)
                if self._log:
                    logging.warning("Skipped unreadable image %s", name)
        if self.count > self.max_fraction * source.num_images:
            shown = ", ".join(self.files[:5])
            self.error = (
                f"{self.count} of {source.num_images} images of {source.name} could "
                f"not be read, more than max_bad_fraction={self.max_fraction:g}: "
                f"{shown}; repair or remove them, or raise the limit."
            )
            raise ValueError(self.error)


def steps_per_epoch(source, batch_size):
    """Whole batches in an epoch.

    Raises:
        ValueError: if there is not even one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} received, expected 1 or more.")
    steps = source.num_images // batch_size
    if not steps:
        raise ValueError(
            f"batch_size={batch_size} received, but {source.name} has only "
            f"{source.num_images} images; use a batch size of at most that."
        )
    return steps


def multiview(
    source,
    recipe,
    *,
    batch_size,
    seed=0,
    start=0,
    augment=True,
    shard=(0, 1),
    bad_files=None,
    with_labels=False,
    num_parallel_calls=_AUTOTUNE,
):
    """The training dataset of a source: endless batches of views.

    Args:
        source: a `sources.Source`.
        recipe: sequence of `views.View`.
        batch_size: int, images of the GLOBAL batch.
        seed: int, of order and views.
        start: int, stream position of the first image; a resumed run passes the
            `position` it has reached.
        augment: False gives the evaluation preprocessing at each view's size: all
            views of an image are alike.
        shard: `(worker, workers)`; this worker's rows of every global batch.
        bad_files: `BadFiles` that collects unreadable images; None makes one with
            the default limit.
        with_labels: add `"label"`, int64, for supervised training.
        num_parallel_calls: parallel maps. The result does not depend on it.

    Returns:
        `tf.data.Dataset` of `{"views": {"view_0": float32 (rows, size, size,
        channels), …}, "index": int64 (rows,), "position": int64 (rows,)}` with
        `rows = batch_size / workers`. Unreadable images are left out, and the rows
        after them move up.

    Raises:
        ValueError: if the batch is larger than the source or does not divide over
            the workers, or none of the first images can be read.
    """
    worker, workers = shard
    if batch_size % workers:
        raise ValueError(
            f"batch_size={batch_size} received for {workers} workers; use a multiple."
        )
    if with_labels and source.labels is None:
        raise ValueError(f"with_labels=True received, but {source.name} has no labels.")
    steps = steps_per_epoch(source, batch_size)
    bad_files = bad_files or BadFiles()
    recipe = recipes.for_channels(recipe, source.channels)
    if source.encoded:
        _check_readable(source)
    rows = batch_size // workers
    stream = _Stream(source, seed, steps * batch_size, batch_size)
    numbers = _numbers(recipe, source.channels, batch_size, seed, start, worker, rows)
    if source.random_access:
        elements = numbers.map(lambda p, n: (p, stream.index(p), n))
        elements = elements.map(
            lambda p, i, n: (p, i, source.read(i), n),
            num_parallel_calls=num_parallel_calls,
        )
    else:
        elements = stream.sequential(numbers, start, worker, workers, rows)
    make = _view_maker(source, recipe, augment)
    elements = elements.enumerate().map(
        lambda ordinal, e: (ordinal, e[0], e[1], make(e[2], e[3])),
        num_parallel_calls=num_parallel_calls,
    )
    # An image that cannot be decoded drops out here.
    dataset = elements.ignore_errors().batch(rows, drop_remainder=True)
    first = start // batch_size * batch_size

    def name_of(ordinal):
        block, row = divmod(int(ordinal) + _skipped(start, first, worker, rows), rows)
        position = first + block * batch_size + worker * rows + row
        return stream.describe(position)

    dataset = _report_gaps(dataset, source, bad_files, name_of)

    def as_dict(_, position, index, views):
        batch = {
            "views": {f"view_{i}": view for i, view in enumerate(views)},
            "index": index,
            "position": position,
        }
        if with_labels:
            batch["label"] = tf.gather(tf.constant(source.labels), index)
        return batch

    dataset = dataset.map(as_dict).prefetch(_AUTOTUNE)
    return dataset.with_options(_options())


def labeled(
    source,
    preprocessing,
    *,
    batch_size=256,
    indices=None,
    bad_files=None,
    num_parallel_calls=_AUTOTUNE,
):
    """Every image once, prepared for evaluation.

    Args:
        source: a `sources.Source`, with or without labels.
        preprocessing: `preprocessing.Preprocessing`.
        batch_size: int.
        indices: int array of the wanted images, in order; None takes all.
        bad_files: as for `multiview`.
        num_parallel_calls: parallel maps.

    Returns:
        Finite `tf.data.Dataset` of `{"image": float32 (batch, size, size,
        channels), "label": int64 (-1 without labels), "index": int64, "mask":
        bool}`. The last batch is filled with copies of its first row, mask False.
    """
    if source.channels != preprocessing.channels:
        raise ValueError(
            f"{source.name} has {source.channels} channels, but the preprocessing is "
            f"for {preprocessing.channels}; open the data with "
            f"channels={preprocessing.channels}."
        )
    bad_files = bad_files or BadFiles()
    if source.encoded:
        _check_readable(source)
    if source.random_access:
        indices = np.arange(source.num_images) if indices is None else indices
        order = np.asarray(indices, np.int64)
        raw = tf.data.Dataset.from_tensor_slices(order).map(
            lambda i: (i, source.read(i)), num_parallel_calls=num_parallel_calls
        )
    else:
        raw = source.stream()
        order = np.arange(source.num_images)
        if indices is not None:
            order = np.sort(np.asarray(indices, np.int64))
            wanted = np.zeros(source.num_images, bool)
            wanted[order] = True
            raw = raw.filter(lambda i, _: tf.gather(tf.constant(wanted), i))
    labels = np.full(source.num_images, -1) if source.labels is None else source.labels
    labels = tf.constant(labels, tf.int64)

    def prepare(ordinal, element):
        index, raw = element
        image = preprocessing.apply(source.decode(raw))
        return ordinal, index, image, tf.gather(labels, index)

    dataset = raw.enumerate().map(prepare, num_parallel_calls=num_parallel_calls)
    dataset = dataset.ignore_errors().batch(batch_size)
    dataset = _report_gaps(
        dataset, source, bad_files, lambda ordinal: source.describe(int(order[ordinal]))
    )

    def fill(_, index, image, label):
        missing = batch_size - tf.shape(index)[0]

        def filled(x):
            more = tf.repeat(x[:1], missing, axis=0)
            return tf.ensure_shape(
                tf.concat([x, more], axis=0), [batch_size, *x.shape[1:]]
            )

        mask = tf.range(batch_size) < tf.shape(index)[0]
        return {
            "image": filled(image),
            "label": filled(label),
            "index": filled(index),
            "mask": mask,
        }

    return dataset.map(fill).prefetch(_AUTOTUNE).with_options(_options())


class _Stream:
    """Which image stands at which position."""

    def __init__(self, source, seed, epoch_size, batch_size):
        self.source = source
        self.seed = seed
        self.epoch_size = epoch_size
        self.batch_size = batch_size

    def index(self, position):
        """int64 index of the image at an int64 position; random access only."""
        epoch, place = position // self.epoch_size, position % self.epoch_size
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(
            place, seed, np.int64(self.source.num_images - 1)
        )

    def describe(self, position):
        if self.source.random_access:
            return self.source.describe(
                int(self.index(tf.constant(position, tf.int64)))
            )
        return f"an image of {self.source.name} at stream position {position}"

    def sequential(self, numbers, start, worker, workers, rows):
        """`(position, index, raw, numbers)`, from a source read in order."""
        buffer = max(
            1,
            min(self.source.num_images, _SHUFFLE_BYTES // self.source.bytes_per_image),
        )
        first_epoch, inside = divmod(start, self.epoch_size)

        def epoch_of(epoch):
            shuffled = self.source.stream().shuffle(
                buffer,
                seed=self.seed + epoch * 1_000_003,
                reshuffle_each_iteration=False,
            )
            skipped = tf.where(epoch == first_epoch, np.int64(inside), np.int64(0))
            return shuffled.take(self.epoch_size).skip(skipped)

        stream = tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(epoch_of)
        if workers > 1:
            place = tf.data.Dataset.range(start, _FOREVER)
            stream = (
                tf.data.Dataset.zip(place, stream)
                .filter(lambda p, _: p % self.batch_size // rows == worker)
                .map(lambda _, element: element)
            )
        return tf.data.Dataset.zip(numbers, stream).map(
            lambda n, element: (n[0], element[0], element[1], n[1])
        )


def _skipped(start, first, worker, rows):
    """How many of this worker's rows of the first batch lie before `start`."""
    return int(np.clip(start - first - worker * rows, 0, rows))


def _numbers(recipe, channels, batch_size, seed, start, worker, rows):
    """Endless `(position, prepared numbers)` of one worker, drawn batch by batch."""
    low = worker * rows
    first = start // batch_size

    def of_batch(step):
        drawn = views_lib.sample(
            recipe, batch=batch_size, channels=channels, seed=seed, step=step
        )
        mine = views_lib.pack(drawn[low : low + rows], recipe, channels)
        positions = step * batch_size + low + tf.range(rows, dtype=tf.int64)
        return positions, mine

    dataset = tf.data.Dataset.range(first, _FOREVER).map(of_batch).unbatch()
    return dataset.skip(_skipped(start, first * batch_size, worker, rows))


def _view_maker(source, recipe, augment):
    """`(raw, prepared) -> tuple of views` of one image."""
    if not augment:
        plain = [recipes.preprocessing_of_view(view, source) for view in recipe]

        def unchanged(raw, _):
            image = source.decode(raw)
            return tuple(one.apply(image) for one in plain)

        return unchanged

    def make(raw, packed):
        if not source.encoded:
            return views_lib.apply_packed(packed, raw, recipe)
        image, crops = image_ops.decode_window(
            raw,
            source.channels,
            tf.as_dtype(source.dtype),
            lambda height, width: views_lib.boxes(packed, recipe, height, width),
        )
        return views_lib.apply_packed(packed, image, recipe, crops)

    return make


def _report_gaps(dataset, source, bad_files, name_of):
    """Names the images that dropped out before a batch; Python runs on a gap only."""

    def record(ordinals, expected):
        present = set(ordinals.tolist())
        lost = [n for n in range(expected, ordinals[-1] + 1) if n not in present]
        bad_files.add([name_of(n) for n in lost], source)
        return np.int64(0)

    def check(expected, batch):
        ordinals = batch[0]
        last = ordinals[-1]
        whole = last - expected + 1 == tf.cast(tf.shape(ordinals)[0], tf.int64)
        done = tf.cond(
            whole,
            lambda: tf.constant(0, tf.int64),
            lambda: tf.numpy_function(record, [ordinals, expected], tf.int64),
        )
        with tf.control_dependencies([done]):
            return last + 1, tf.nest.map_structure(tf.identity, batch)

    return dataset.scan(np.int64(0), check)


def _check_readable(source):
    """One image must decode, or the endless stream would never give a batch."""
    if source.random_access:
        tries = np.linspace(0, source.num_images - 1, _FIRST_TRIES).astype(np.int64)
        raws = (source.read(tf.constant(i)) for i in np.unique(tries))
        name = source.describe(0)
    else:
        raws = (raw for _, raw in source.stream().take(_FIRST_TRIES))
        name = source.name
    for raw in raws:
        try:
            source.decode(raw)
            return
        except tf.errors.OpError:
            continue
    raise ValueError(
        f"No image of {source.name} could be decoded ({name}, …); expected JPEG, PNG, "
        "BMP or GIF files."
    )


def _options():
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return options

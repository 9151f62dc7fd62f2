"""Unreadable images: skipped, named, counted, and too many of them stop the run."""

import contextlib

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import checks, files
from tfssl.data import passes
from tfssl.data.sources import aligned, image_headers, tiff
from tfssl.data.sources.base import OUT_OF_RANGE

# Errors of reading an image outside of a graph. The second is what Python makes of a
# message of TensorFlow's that quotes the image's bytes.
_ERRORS = (tf.errors.OpError, UnicodeDecodeError)
_REASONS = (
    image_headers.TOO_LARGE,
    image_headers.MOVES,
    image_headers.MASKS,
    image_headers.PACKED,
    tiff.NOT_FOR_PNG,
    OUT_OF_RANGE,
    *aligned.REASONS,
)
_SPREAD = 16  # Images tried, spread over the source, before all are.
_MARKS = 8  # Of so many elements one mark more is copied into the batch, and left out.
_FOREVER = np.int64(2) ** 62


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
        checks.share({"max_fraction": max_fraction}, "max_fraction")
        self.max_fraction = max_fraction
        self.error = None
        self._names = {}  # Name to reason, in the order they were met.
        self._log = log

    @property
    def files(self):
        """The list of names."""
        return list(self._names)

    @property
    def listed(self):
        """The names, each followed by why it was left out, where that is known."""
        return [
            f"{name} ({reason})" if reason else name
            for name, reason in self._names.items()
        ]

    @property
    def count(self):
        """How many different images were unreadable."""
        return len(self._names)

    def reasons(self, indices, source, readable=""):
        """Names of images that are not known yet to be unreadable, and why they are.

        Args:
            indices: of the images.
            source: what they are images of.
            readable: the reason of those that can be read in this process.

        Returns:
            Dict of name to reason, `""` where it is not known.
        """
        named = {source.describe(i): i for i in indices}
        return {
            name: _reason_of(source, index, readable)
            for name, index in named.items()
            if name not in self._names
        }

    def add(self, reasons, source):
        """Records unreadable images of a source.

        Args:
            reasons: dict of name to reason, `""` where it is not known.
            source: what they are images of.

        Raises:
            ValueError: once they are more than `max_fraction` of it.
        """
        if self.error:  # A stopped pipeline may be asked for more; nothing is new.
            raise ValueError(self.error)
        for name, reason in reasons.items():
            if name not in self._names:
                self._names[name] = reason
                if self._log:
                    logging.warning("Skipped unreadable image %s", self.listed[-1])
        if self.count > self.max_fraction * source.num_images:
            shown = ", ".join(self.listed[:5])
            self.stop(
                f"{self.count} of {source.num_images} images of {source.name} could "
                f"not be read, more than max_bad_fraction={self.max_fraction:g}: "
                f"{shown}; repair or remove them, or raise the limit."
            )

    def stop(self, error):
        """Stops the pipeline, for good, with the message of an error."""
        self.error = error
        raise ValueError(error)


@contextlib.contextmanager
def explained(*collectors):
    """Raises the plain sentence where too many bad files stopped a graph.

    Or where a dataset gave other images than in its first pass. What a pipeline raises
    arrives as a `tf.errors.OpError` with a traceback inside.

    Args:
        *collectors: the `BadFiles` of the pipelines that run in this context.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for collector in collectors:
            if collector.error:
                raise ValueError(collector.error) from error
        changed = passes.changed(error)
        if changed:
            raise ValueError(changed) from error
        raise


def check(source, bad_files, use):
    """Runs the work on one readable image, so that mistakes in it come to light.

    `skip` would take an error in `use` for a bad image, and an endless stream of bad
    images would never give a batch. Not in a graph, which takes a second to make.

    Args:
        source: a source of encoded images.
        bad_files: `BadFiles`.
        use: function of what `source.read` gives.

    Raises:
        ValueError: if no image can be decoded, or the bad ones met while looking
            for a good one are too many.
    """
    bad = {}
    for index, raw in _raws(source):
        try:
            source.decode(raw)
        except _ERRORS as error:
            reason = _reason_of(source, index, "") or _reason(error)
            bad[source.describe(index)] = reason
            if len(bad) > max(_SPREAD, bad_files.max_fraction * source.num_images):
                bad_files.add(bad, source)
            continue
        with tf.device(files.cpu_here()):  # Where the pipeline does it, too.
            use(raw)
        return
    name, reason = next(iter(bad.items()))
    raise ValueError(
        f"No image of {source.name} could be decoded ({name}"
        f"{f' ({reason})' if reason else ''}, …); expected JPEG, PNG, BMP, GIF or "
        "WebP files."
    )


def _raws(source):
    """`(index, raw)` of all images, some from all over the source first."""
    if not source.random_access:
        for index, raw in source.stream():
            passes.check(index, source)
            yield int(index), raw
        return
    spread = np.linspace(0, source.num_images - 1, _SPREAD).astype(np.int64)
    spread = np.unique(spread)
    seen = set(spread.tolist())
    for index in [*spread, *(i for i in range(source.num_images) if i not in seen)]:
        try:
            raw = source.read(tf.constant(index, tf.int64))
        except _ERRORS:  # A file that has gone, or must not be read.
            raw = tf.constant(b"")
        yield int(index), raw


def _reason(error):
    """Why an image is left out, in a few words, by the error of reading it."""
    for reason in _REASONS:
        if reason in str(error):
            return reason
    return "missing" if isinstance(error, tf.errors.NotFoundError) else ""


def _reason_of(source, index, readable):
    if not source.random_access:
        return ""
    for part, attempt in source.attempts(index):
        try:
            attempt()
        except _ERRORS as error:
            return ": ".join(filter(None, (part, _reason(error))))
    return readable


def skip(elements, size, first, index_of, source, bad_files, end=None):
    """Batches the elements that do not fail; names those that do.

    Args:
        elements: dataset of tuples that start with a running int64 number.
        size: elements of a batch.
        first: the number of the first element.
        index_of: function of a number, the index of that image in the source.
        source: the source, for the share of bad images.
        bad_files: `BadFiles`. Python is called on a gap only.
        end: one more than the last number, for a finite dataset, whose last elements
            may be bad and whose last batch may be smaller; None for an endless one.

    Returns:
        Dataset of batches. Elements after a failed one move up.
    """
    batches = readable(elements, size, first, source, end)
    return record_gaps(batches, first, index_of, source, bad_files, end)


def readable(elements, size, first, source, end=None):
    """Batches the elements that do not fail; the first half of `skip`, without Python.

    It may run in another process; the gaps in the numbers are still to be recorded.

    Where nothing can be read, an endless dataset would wait for ever for its next
    element. So marks that cannot fail follow every `size` elements. They are taken
    out again, unless nothing else is there: then batches of marks tell `record_gaps`
    how far the reading came.
    """
    if end is not None:
        batches = passes.unchanged(elements.ignore_errors().batch(size), source)
        return batches.concatenate(_marks(batches.element_spec, lambda _: end, 1))
    count = max(1, size // _MARKS)
    of_elements = elements.element_spec
    marks = _marks(of_elements, lambda n: -(first + (n // count + 1) * size))
    turns = tf.data.Dataset.from_tensor_slices(np.int64([0] * size + [1] * count))
    marked = tf.data.Dataset.choose_from_datasets([elements, marks], turns.repeat())

    def unmarked(*batch):
        good = batch[0] >= 0
        found = tf.math.count_nonzero(good)
        kept = tf.where(found > 0, found, tf.size(good, tf.int64))
        return tf.cond(
            tf.reduce_all(good[:found]),  # Then nothing needs to be copied.
            lambda: tf.nest.map_structure(lambda x: x[:kept], batch),
            lambda: _good_rows(batch),
        )

    batches = passes.unchanged(marked.ignore_errors().batch(size + count), source)
    return batches.map(unmarked).rebatch(size, drop_remainder=True)


def tried(number):
    """How many elements, from number 0 on, were tried when one came out; in a graph.

    Args:
        number: int64 tensor, an element's number, or negative, that of a mark.
    """
    return tf.where(number < 0, -number, number + 1)


def record_gaps(batches, first, index_of, source, bad_files, end=None, *, readable=""):
    """Names the elements that are missing; the second half of `skip`.

    `readable` is as for `BadFiles.reasons`.
    """

    def record(lost, since_good):
        try:
            for k in lost.tolist():
                index = int(index_of(k))
                reasons = bad_files.reasons([index], source, readable)
                bad_files.add(reasons, source)
            if since_good > 2 * source.num_images:
                bad_files.stop(f"No image of {source.name} can be read any more.")
        except ValueError as error:
            return str(error).encode()
        return b""

    def follow(state, batch):
        expected, good, stopped = state
        numbers = batch[0]
        reached = tf.reduce_max(tried(numbers))
        good = tf.maximum(good, tf.reduce_max(numbers) + 1)

        def gaps():
            lost = tf.raw_ops.ListDiff(x=tf.range(expected, reached), y=numbers)
            return tf.numpy_function(record, [lost.out, reached - good], tf.string)

        whole = reached - expected == tf.math.count_nonzero(numbers >= 0)
        # Python is not called again after a stop: a thread that prefetches would wait
        # for the interpreter, which waits for the thread while it deletes the iterator.
        quiet = whole | (stopped != "")
        stopped = tf.cond(quiet, lambda: stopped, gaps)
        stopped = tf.ensure_shape(stopped, [])
        return (reached, good, stopped), (stopped, batch)

    def checked(stopped, batch):
        check = tf.debugging.Assert(stopped == "", [stopped])
        with tf.control_dependencies([check] if check is not None else []):
            good = tf.reduce_all(batch[0] >= 0)
        return tf.cond(good, lambda: batch, lambda: _good_rows(batch))

    # Once per batch: a scan over single images costs a tenth of a millisecond each.
    start = (np.int64(first), np.int64(first), "")
    recorded = batches.scan(start, follow).map(checked)
    if end is not None:
        return recorded.filter(lambda numbers, *_: numbers[0] < end)
    return recorded.rebatch(batches.element_spec[0].shape[0], drop_remainder=True)


def _good_rows(batch):
    good = batch[0] >= 0
    return tf.nest.map_structure(lambda x: tf.boolean_mask(x, good), batch)


def _marks(spec, number_of, count=None):
    """Dataset of tuples of zeros in the given form that start with a number.

    Args:
        spec: of the elements or batches between which they stand.
        number_of: function of the mark's own int64 number.
        count: of marks; None for an endless dataset.
    """
    number, *others = spec

    def nothing(part):
        return tf.zeros([n or 1 for n in part.shape], part.dtype)

    zeros = tf.nest.map_structure(nothing, others)

    def mark(n):
        shape = [1] * number.shape.rank
        return tf.reshape(tf.cast(number_of(n), tf.int64), shape), *zeros

    return tf.data.Dataset.range(_FOREVER if count is None else count).map(mark)

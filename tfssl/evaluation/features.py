"""Frozen features of a labelled dataset, computed once and cached in memory.

Every evaluation (kNN, linear probe, report) starts here, so that all of them
see the same numbers: inference mode, every image once, float32.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfssl import internals
from tfssl import progress as progress_lib

_ROWS = 4096  # That `by_rows` computes at once.


@dataclasses.dataclass(frozen=True)
class Features:
    """Feature vectors of images, with what is known about each image.

    Attributes:
        values: float32 `(num_images, dim)`.
        labels: int64 `(num_images,)`; -1 where the image has no label.
        index: int64 `(num_images,)`, position of the image in its source.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __post_init__(self):
        count = len(self.values)
        if self.values.ndim != 2:
            raise ValueError(
                f"Features.values has shape {self.values.shape}; give one row per "
                "image, (num_images, dim)."
            )
        if self.labels.shape != (count,) or self.index.shape != (count,):
            raise ValueError(
                f"Features of {count} images need labels and index of shape "
                f"({count},), got {self.labels.shape} and {self.index.shape}."
            )

    def __len__(self):
        return len(self.values)

    def take(self, rows):
        """The features of some rows (an int array or a boolean mask)."""
        return Features(self.values[rows], self.labels[rows], self.index[rows])


def forward(encoder, images):
    """The inference pass of one batch, `(batch, dim)` in float32.

    Args:
        encoder: a Keras model, called with `training=False`: batch-norm statistics
            are read and never written.
        images: `(batch, h, w, c)`.

    Raises:
        ValueError: if the encoder does not give one vector per image.
    """
    outputs = encoder(images, training=False)
    if not tf.is_tensor(outputs) or outputs.shape.rank != 2:
        shape = getattr(outputs, "shape", type(outputs).__name__)
        raise ValueError(
            f"The encoder gives {shape} for a batch of images; evaluation "
            "needs one vector per image, (batch, dim). Add global average "
            'pooling (for keras.applications: pooling="avg").'
        )
    return tf.cast(outputs, tf.float32)


class Extractor:
    """The inference pass of one encoder, compiled once and callable often.

    Args:
        encoder: a Keras model, image batch `(batch, h, w, c)` -> features
            `(batch, dim)`. Called with `training=False`, so that batch-norm
            statistics are read and never written.
        progress: show how far it is.
        purpose: what needs finite features, see `check_labeled`; features of NaN or
            infinity are then refused as soon as they come. None takes any.

    Example:
        >>> extract = Extractor(encoder)      # Keep it: later calls do not retrace.
        >>> validation = extract(data.labeled(source, preprocessing, batch_size=256))
    """

    def __init__(self, encoder, *, progress=False, purpose=None):
        self._progress = progress
        self._purpose = purpose

        def run(images):
            return forward(encoder, images)

        # A model of the user's may ask tensors.
        self._run = internals.function(run, autograph=True, reduce_retracing=True)

    def __call__(self, dataset, batches=None):
        """Features of every image of `dataset` once; see `extract`."""
        return _collect(self._parts(dataset, batches))

    def blocks(self, dataset, batches=None):
        """Yields the same as `Features` of as many rows as `by_rows` computes at once.

        For more than memory holds.
        """
        held, count = [], 0
        for part in self._parts(dataset, batches):
            while count + len(part[0]) >= _ROWS:
                first, part = zip(*(np.split(some, [_ROWS - count]) for some in part))
                yield Features(*map(np.concatenate, zip(*held, first)))
                held, count = [], 0
            held.append(part)
            count += len(part[0])
        if count:
            yield Features(*map(np.concatenate, zip(*held)))

    def _parts(self, dataset, batches):
        # A batch shorter than the first is padded: one trace, one shape (XLA).
        size = 0

        def rows(batch):
            nonlocal size
            images = batch["image"]
            count = int(images.shape[0])
            size = size or count
            if count < size:
                padding = [[0, size - count]] + [[0, 0]] * (images.shape.rank - 1)
                images = tf.pad(images, padding)
            return self._run(images)[:count]

        for part in _parts(dataset, rows, self._progress, batches):
            if self._purpose is not None:
                check_finite(Features(*part), self._purpose, "consecutive")
            yield part


def extract(encoder, dataset, *, progress=False, batches=None):
    """Features of every image of a dataset, in inference mode.

    Args:
        encoder: a Keras model, image batch -> features `(batch, dim)`.
        dataset: finite `tf.data.Dataset` of batches as `data.labeled` makes them:
            dicts with `"image"` and optionally `"label"` (default -1, and where it is
            not one whole number per image), `"index"`
            (default: running number) and `"mask"` (False = padding, left out).
        progress: show how far it is.
        batches: int, how many it is to be, where the dataset does not know.

    Returns:
        `Features`, in the order of the dataset. No variable of the encoder
        changes by a bit.

    Raises:
        ValueError: if the encoder does not give one vector per image, or the
            dataset is empty or infinite.
    """
    return Extractor(encoder, progress=progress)(dataset, batches)


def raw_pixels(dataset, batches=None):
    """The preprocessed pixels themselves as features: the baseline to beat.

    Args:
        dataset: as for `extract`.
        batches: as for `extract`.

    Returns:
        `Features` with `dim = height * width * channels`.
    """

    def rows(batch):
        images = np.asarray(batch["image"], np.float32)
        return images.reshape(len(images), -1)

    return _collect(_parts(dataset, rows, progress=False, batches=batches))


def by_rows(function, *arrays, out=None):
    """A function of rows, of some thousand at a time: a device never holds all.

    Args:
        function: of arrays `(rows, …)` to a tensor of one entry per row, which depends
            on that row only.
        *arrays: `(n, …)`, one row or more.
        out: array for the result, which may be one of `arrays`; None makes one.

    Returns:
        `out`, `(n, …)`.
    """
    for start in range(0, len(arrays[0]), _ROWS):
        rows = slice(start, start + _ROWS)
        part = np.asarray(function(*(array[rows] for array in arrays)))
        if out is None:
            out = np.empty((len(arrays[0]), *part.shape[1:]), part.dtype)
        out[rows] = part
    return out


def check_labeled(features, purpose, part):
    """Raises a `ValueError` unless features are finite, labelled and not empty.

    Args:
        features: `Features`.
        purpose: what needs them, first words of the message ("The kNN").
        part: which ones they are ("training" or "test").
    """
    if not len(features):
        raise ValueError(f"{purpose} got no {part} images; give at least one.")
    missing = int((features.labels < 0).sum())
    if missing:
        raise ValueError(
            f"{purpose} needs labels, but {missing} of {len(features)} {part} images "
            'have none (label -1); open the source with labels (folders: labels="'
            'folders") or leave this evaluation out.'
        )
    check_finite(features, purpose, part)


def check_finite(features, purpose, part):
    """Raises `ValueError` for features of NaN or infinity; see `check_labeled`."""
    bad = int((~np.isfinite(features.values).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"{purpose} needs finite features, but those of {bad} of {len(features)} "
            f"{part} images hold NaN or infinity; the encoder has diverged."
        )


def _collect(parts):
    """The `Features` that parts of them make."""
    rows, labels, index = _Stack(), [], []
    for values, label, numbers in parts:
        rows.append(values)
        labels.append(label)
        index.append(numbers)
    return Features(rows.finished(), np.concatenate(labels), np.concatenate(index))


def _parts(dataset, rows_of, progress, batches):
    """Yields values, labels and index of each batch, as `Features` has them."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Features need a finite dataset, this one repeats forever; use "
            "data.labeled, or dataset.take(n)."
        )
    known = int(dataset.cardinality())
    seen = 0
    computing = None  # On a GPU the rows of one batch, while the next is brought.
    for batch in progress_lib.bar(
        dataset,
        wanted=progress,
        total=known if known >= 0 else batches,
        desc="features",
        unit="batch",
        leave=False,
    ):
        values = rows_of(batch)
        count = len(values)
        mask = np.asarray(batch.get("mask", np.ones(count)), bool)
        label = batch.get("label")
        if label is None or len(label.shape) != 1:
            label = np.full(count, -1)
        numbers = batch.get("index", seen + np.arange(count))
        if computing is not None:
            yield _masked(*computing)
        computing = values, label, numbers, mask
        seen += count
    if computing is None:
        raise ValueError("Features need at least one batch; this dataset is empty.")
    yield _masked(*computing)


def _masked(values, labels, index, mask):
    return (
        np.asarray(values, np.float32)[mask],
        np.asarray(labels, np.int64)[mask],
        np.asarray(index, np.int64)[mask],
    )


class _Stack:
    """Rows in one array that grows in place: the whole is never there twice."""

    def __init__(self):
        self._rows = np.empty((0, 0), np.float32)
        self._count = 0

    def append(self, rows):
        end = self._count + len(rows)
        if end > len(self._rows) or not self._count:  # It has no width yet.
            self._resize(max(end, len(self._rows) * 9 // 8), rows.shape[1])
        self._rows[self._count : end] = rows
        self._count = end

    def finished(self):
        self._resize(self._count, self._rows.shape[1])
        return self._rows

    def _resize(self, count, dim):
        self._rows.resize((count, dim), refcheck=False)

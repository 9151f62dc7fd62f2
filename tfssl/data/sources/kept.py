"""Images that are decoded once and kept in memory, where that changes no pixel.

Kept are images that are decoded whole however they are cropped: all kinds of files but
JPEG of more than `decoding.WHOLE` pixels, of which each epoch decodes another part.
What is not kept (such JPEG files, images that cannot be read) is read as if there were
no memory, so nothing else changes.
"""

import copy
import dataclasses
import functools
import time

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import running
from tfssl.data.sources import base, decoding, image_headers

_GIB = 2**30
_SAMPLE = 32  # Images, spread over the source, by which its size is known.
_BATCH_BYTES = 1 << 24  # Of the images that are put in place at a time.
_LARGER = 16  # An image of so many times the mean size is not kept: batches are padded.
_ALIGNED = 64  # TensorFlow's kernels want tensors to start at multiples of it.


def keep(source, budget, *, must=False):
    """The same source, whose pipelines keep the decoded images in memory.

    They are decoded in one pass when the first pipeline is made, and serve all that
    read this source in this process. Nothing else about the source changes.

    Args:
        source: a `Source`. Decoded images, and those that are read in sequence, are
            returned as they are.
        budget: bytes that they may take.
        must: whether to refuse images that take more.

    Raises:
        ValueError: as `must` asks for.
    """
    if not (source.encoded and source.random_access) or source.memory is not None:
        return source
    source = copy.copy(source)
    source.memory = Memory(source, budget)
    if must and source.memory.wanted > budget:
        raise ValueError(
            f"cache_gib={budget / _GIB:g} received, but the {source.num_images:,} "
            f"images of {source.name} take about {source.memory.wanted / _GIB:.3g} "
            "GiB when they are decoded; give as much, or 0 to decode them in every "
            "epoch."
        )
    return source


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """Decoded images one after the other.

    Attributes:
        values: tensor `(numbers,)` of all of them.
        shapes: int32 `(images, 2)`, height and width; zeros where one is not kept.
        starts: int64 `(images,)`, where each begins in `values`.
        jpeg: bool `(images,)`, whether the decoder could make it smaller.
        size: `(height, width)` if all images are kept and share it, else None.
    """

    values: tf.Tensor
    shapes: tf.Tensor
    starts: tf.Tensor
    jpeg: tf.Tensor
    size: tuple | None


class Memory:
    """The decoded images of a source, or the reason why there are none.

    Args:
        source: encoded images with random access.
        budget: bytes that they may take.

    Attributes:
        mean: bytes of an image that is kept, by some of them.
        wanted: bytes that all images would take, by the same.
    """

    def __init__(self, source, budget):
        spread = np.linspace(0, source.num_images - 1, _SAMPLE).astype(np.int64)
        found = [_kept_bytes(source, index) for index in np.unique(spread)]
        found = [size for size in found if size is not None]
        sizes = [size for size in found if size]
        self.wanted = sum(sizes) * source.num_images // max(1, len(found))
        self.mean = max(1, sum(sizes) // max(1, len(sizes)))
        self._budget = budget
        self._source = source

    def told(self, again, limit):
        """A line for the start of a run.

        Args:
            again: when images that are not kept are decoded, "in every epoch".
            limit: what the budget is called, "cache_gib".
        """
        about = f"about {self.wanted / _GIB:.3g} GiB of at most "
        about += f"{self._budget / _GIB:.3g} GiB ({limit})"
        if self.fits:
            return f"images are decoded once and kept: {about}"
        if self.wanted:
            return f"images are decoded {again}: {about}"
        return (
            f"images are decoded {again}: JPEG files of more than {decoding.WHOLE} px, "
            "only where crops lie"
        )

    @property
    def fits(self):
        """Whether there is something to keep, and room for it."""
        return 0 < self.wanted <= self._budget

    @running.as_written
    def ready(self, source):
        """A source that reads images from memory, see `Source.ready`."""
        return KeptSource(source, self._pixels) if self.fits else source

    @functools.cached_property
    def _pixels(self):
        source, start = self._source, time.perf_counter()
        width = tf.as_dtype(source.dtype).size
        room = min(self._budget, int(1.25 * self.wanted) + _BATCH_BYTES)
        values = _aligned(room // width, source.dtype)
        shapes = np.zeros((source.num_images, 2), np.int32)
        starts = np.zeros(source.num_images, np.int64)
        jpeg = np.zeros(source.num_images, bool)
        end = 0
        for index, rows, sizes, of_jpeg in _decoded_in_batches(source, self.mean):
            lengths = sizes.astype(np.int64).prod(1) * source.channels
            fits = end + np.cumsum(lengths) <= len(values)
            for row, length in zip(rows[fits], lengths[fits]):
                values[end : end + length] = row[:length]
                end += length
            index, lengths = index[fits], lengths[fits]
            shapes[index], jpeg[index] = sizes[fits], of_jpeg[fits]
            starts[index] = end - lengths[::-1].cumsum()[::-1]
        logging.info(
            "%s: %d of %d images decoded once and kept, %.3g GiB, in %.1f s.",
            source.name,
            np.count_nonzero(shapes[:, 0]),
            source.num_images,
            end * width / _GIB,
            time.perf_counter() - start,
        )
        alike = shapes[0].all() and (shapes == shapes[0]).all()
        with tf.init_scope(), tf.device("CPU:0"):
            return _Pixels(
                # Without a copy: TensorFlow holds the array.
                tf.experimental.dlpack.from_dlpack(values[: max(end, 1)].__dlpack__()),
                *map(tf.constant, (shapes, starts, jpeg)),
                size=tuple(shapes[0].tolist()) if alike else None,
            )


class KeptSource(base.Source):
    """What a pipeline reads of a source with a `Memory`.

    `read` gives the number of an image: it is in memory, or read from its file by
    whoever decodes it.

    Args:
        source: the source.
        pixels: `_Pixels` of its images.
    """

    encoded = True

    def __init__(self, source, pixels):
        self._source = source
        self._pixels = pixels
        super().__init__(
            source.name,
            source.num_images,
            channels=source.channels,
            dtype=source.dtype,
            labels=lambda: source.known_labels,
            class_names=source.class_names,
            image_size=pixels.size,
        )

    @property
    def holds_files(self):
        return self._source.holds_files

    def _fingerprint(self, digest):
        self._source._fingerprint(digest)

    def identity(self):
        return self._source.identity()

    def read(self, index):
        return tf.cast(index, tf.int64)

    @property
    def stacked(self):
        if self.image_size is None:
            return None
        shape = [-1, *self.image_size, self.channels]
        with tf.init_scope(), tf.device("CPU:0"):
            images = tf.reshape(self._pixels.values, shape)
        return lambda index: tf.gather(images, index)

    def decode(self, raw, side=None):
        shape = tf.gather(self._pixels.shapes, raw)
        smaller = 0 if side is None else decoding.step_of_image(shape, side)

        def of_file(file):
            return self._source.decode(file, side)

        return self._image(raw, shape, smaller, of_file)

    def decode_window(self, raw, boxes_of, sizes=None):
        shape = tf.gather(self._pixels.shapes, raw)
        # Boxes of an image that is not kept are those of a single pixel, and unused.
        boxes = boxes_of(*tf.unstack(tf.maximum(shape, 1)))
        smaller = 0 if sizes is None else decoding.step_of_crops(boxes, sizes)

        def of_file(file):
            return self._source.decode_window(file, boxes_of, sizes)

        return self._image(raw, shape, smaller, of_file, boxes)

    def _image(self, raw, shape, smaller, of_file, *others):
        """Image `raw` (and what comes with it) from memory, or from its file."""
        made_smaller = tf.gather(self._pixels.jpeg, raw) & (smaller > 0)
        whole = [*tf.unstack(shape), self.channels]

        def kept():
            start = tf.gather(self._pixels.starts, raw)
            length = tf.cast(tf.reduce_prod(whole), tf.int64)
            image = tf.slice(self._pixels.values, start[None], length[None])
            image = tf.reshape(image, whole)
            return (image, *others) if others else image

        def read():
            found = of_file(self._source.read(raw))
            return tuple(found) if others else found

        found = tf.cond((shape[0] > 0) & ~made_smaller, kept, read)
        image = found[0] if others else found
        image.set_shape([None, None, self.channels])
        return found

    def describe(self, index):
        return self._source.describe(index)

    def attempts(self, index):
        return self._source.attempts(index)


def _kept_bytes(source, index):
    """Bytes of a decoded image, 0 if it is not kept, None if it cannot be read."""
    try:
        raw = source.read(tf.constant(index, tf.int64))
        jpeg = _is_jpeg(source, raw)
        if jpeg and not _is_small(tf.image.extract_jpeg_shape(source.file_of(raw))):
            return 0
        return source.decode(raw).numpy().nbytes
    except (tf.errors.OpError, UnicodeDecodeError):  # Messages quote bytes.
        return None


def _is_jpeg(source, raw):
    """Whether the decoder may leave out or average pixels of an image."""
    if not source.holds_files or source.dtype != "uint8" or source.channels == 4:
        return tf.constant(False)
    return image_headers.is_jpeg(source.file_of(raw))


def _is_small(shape):
    return tf.reduce_max(shape[:2]) <= decoding.WHOLE


def _decoded_in_batches(source, mean):
    """Yields `(index, pixels, shapes, whether JPEG)` of images that are to be kept.

    The pixels of each fill the beginning of a row. Images that cannot be read are left
    out.
    """
    width = tf.as_dtype(source.dtype).size

    def decoded(index):
        raw = source.read(index)
        image, jpeg = source.decode(raw), _is_jpeg(source, raw)
        usual = tf.size(image, tf.int64) * width <= _LARGER * mean
        kept = usual & (_is_small(tf.shape(image)) | tf.logical_not(jpeg))
        return index, tf.reshape(image, [-1]), tf.shape(image)[:2], jpeg, kept

    dataset = tf.data.Dataset.range(source.num_images)
    dataset = dataset.map(decoded, num_parallel_calls=running.parallel())
    dataset = dataset.ignore_errors().filter(lambda *parts: parts[-1])
    dataset = dataset.padded_batch(int(np.clip(_BATCH_BYTES // mean, 1, 1024)))
    dataset = dataset.prefetch(running.AHEAD).with_options(running.options())
    for index, flat, shape, jpeg, _ in dataset.as_numpy_iterator():
        yield index, flat, shape, jpeg


def _aligned(count, dtype):
    """An array `(count,)` whose memory is only taken as it is filled."""
    size = np.dtype(dtype).itemsize
    whole = np.empty(count * size + _ALIGNED, np.uint8)
    first = -whole.ctypes.data % _ALIGNED
    return whole[first : first + count * size].view(dtype)

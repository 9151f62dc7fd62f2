"""What a source of images is: a count, a kind of pixels, and image `i` on request.

A source either reads image `i` inside a graph (random access: arrays, folders,
manifests, records, small TFDS sets) or yields all images in a fixed order (large TFDS
sets, a `tf.data.Dataset`). Labels are optional everywhere.
"""

import copy
import hashlib

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import passes
from tfssl.data.sources import decoding, label_sets

MAX_VALUE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
OUT_OF_RANGE = "float values outside of [0, 1]"


class Source:
    """Images with random access. Subclasses read one image inside a graph.

    A subclass calls the constructor and has two functions: `read(index)`, see there,
    and `_fingerprint(digest)`, which hands a hash (`digest.update(bytes)`) all that the
    images are made of: pixels, or names and sizes of files. All else has a default.

    Attributes:
        name: for logs and errors.
        num_images: int.
        channels: int.
        dtype: `"uint8"`, `"uint16"` or `"float32"` of decoded pixels.
        labels: int64 `(num_images,)`, -1 where unknown, or None. Where finding them
            means reading the data, that happens when they are first asked for.
        label_sets: int8 `(num_images, classes)`, for images with any number of classes:
            1 (has it), 0 (has it not), -1 (unknown or difficult), or None. A source has
            these, or `labels`, or neither; they are set by giving `labels` a matrix of
            whole numbers.
        class_names: tuple of names by label, or None.
        image_size: `(height, width)` if all images share it, or None. Where it is set
            and images are decoded, `read` also takes several indices, see `stacked`.
        encoded: whether `read` gives encoded files, to be decoded by the caller.
        random_access: whether `read` exists; else `stream` and `image_bytes` do.
        memory: `kept.Memory` of the decoded images, or None, see `kept.keep`.
        maps: dict of a map of classes among the channels, by its name, to its first
            channel and the names of its classes, `(int, tuple)`. Each class has a
            channel, see `data.label_maps`.
        places: function of nothing that gives a text for each image, where it lies, by
            which others can be found to be the same, or a tuple of texts, where it is
            made of several pictures; or None.
        together: function of nothing that gives a tuple for each image, of what it has
            in common with others (the clip that it is a frame of, files): a hold-out
            puts images with something in common on one side; or None.
    """

    random_access = True
    encoded = False
    memory = None
    places = None
    together = None

    def __init__(
        self, name, num_images, *, channels, dtype, labels, class_names, image_size=None
    ):
        if num_images < 1:
            raise ValueError(f"{name} holds no image; give at least one.")
        if self.holds_files and channels not in (1, 3, 4):
            raise ValueError(
                f"channels={channels} received for the image files of {name}, expected "
                "1 (grey), 3 (RGB) or 4 (RGBA)."
            )
        self.name = name
        self.num_images = num_images
        self.channels = channels
        self.dtype = dtype
        self.class_names = class_names
        self.maps = {}
        self.labels = labels
        self.image_size = image_size

    @property
    def max_value(self):
        """The largest pixel value: 255, 65535 or 1."""
        return MAX_VALUE[self.dtype]

    @property
    def labels(self):
        found = self.known_labels
        return None if found is None or found.ndim == 2 else found

    @labels.setter
    def labels(self, value):
        if value is not None and not callable(value):
            value = self._checked_labels(value)
        self._labels = value

    @property
    def label_sets(self):
        found = self.known_labels
        return None if found is None or found.ndim == 1 else found

    @property
    def known_labels(self):
        """`labels`, or else `label_sets`, or else None."""
        if callable(self._labels):
            self.labels = self._labels()
        return self._labels

    def _checked_labels(self, value):
        names, value = self.class_names, np.asarray(value)
        if label_sets.are_sets(value):
            return label_sets.checked(value, self.num_images, names, self.name)
        value = label_sets.whole_labels(value, self.num_images, self.name)
        if names is not None and value.max() >= len(names):
            raise ValueError(
                f"{self.name} has labels up to {value.max()}, but names of only "
                f"{len(names)} classes (from 0); name all of them."
            )
        return value

    def read(self, index):
        """Image `index`: pixels `(height, width, channels)`, or an encoded file.

        Args:
            index: int64 scalar tensor; or `(n,)`, for pixels `(n, height, width,
                channels)`, where `stacked` is this function.
        """
        raise self._lacks("read(index)", "gives image `index`")

    def ready(self):
        """The source that pipelines read: this one, or its decoded images.

        The first call decodes them, where they are to be kept.
        """
        return self if self.memory is None else self.memory.ready(self)

    @property
    def stacked(self):
        """Function int64 `(n,)` -> pixels `(n, height, width, channels)`, or None.

        There is one where all images are decoded, share a size, and can be read: it is
        `read` itself. A subclass whose `read` takes one index alone gives None here, or
        leaves `image_size` out.
        """
        fixed = self.image_size is not None and self.random_access and not self.encoded
        return self.read if fixed else None

    def decode(self, raw, side=None):
        """What `read` gave -> pixels `(height, width, channels)`.

        Args:
            raw: what `read` gave.
            side: None for the image as it is; or how many pixels of its shorter side
                are of use, see `decoding.decode`.
        """
        if not self.encoded:
            return raw
        kind = tf.as_dtype(self.dtype)
        return decoding.decode(raw, self.channels, kind, side=side)

    def decode_window(self, raw, boxes_of, sizes=None):
        """Decodes at least the rectangle that holds all crops.

        Args:
            raw: what `read` gave.
            boxes_of: function `(height, width) -> (boxes, 4)` int32 tensor of
                `[top, left, height, width]` inside the image.
            sizes: the sides of the views made of the boxes, where the image may be
                made smaller for them, see `decoding.decode_window`.

        Returns:
            `(pixels, boxes)`, the boxes counted from the corner of the pixels.
        """
        if self.encoded:
            kind = tf.as_dtype(self.dtype)
            return decoding.decode_window(raw, self.channels, kind, boxes_of, sizes)
        shape = tf.shape(raw)
        return raw, boxes_of(shape[0], shape[1])

    @property
    def holds_files(self):
        """Whether `file_of` gives encoded image files."""
        return self.encoded

    def file_of(self, raw):
        """What `read` gave -> the bytes of the image file, where there is one."""
        return raw

    def describe(self, index):
        """What to call image `index` in a message."""
        return f"{self.name}[{index}]"

    def attempts(self, index):
        """What reading image `index` takes, for finding out what of it fails.

        Yields:
            `(name, function)`: of a part of the image, `""` for the whole; and that
            reads it, outside of a graph.
        """
        yield "", lambda: self.decode(self.read(tf.constant(index, tf.int64)))

    @property
    def has_names(self):
        """Whether `describe` gives names of files, by which lists know images."""
        return False

    def fingerprint(self):
        """SHA-256 that changes when the images or their labels do."""
        digest = hashlib.sha256()
        self._fingerprint(digest)
        known = self.known_labels
        if known is not None:
            digest.update(known.astype("<i8").tobytes())
        return digest.hexdigest()

    def _fingerprint(self, digest):
        raise self._lacks(
            "_fingerprint(digest)", "calls digest.update with bytes of all images"
        )

    def _lacks(self, function, does):
        """The error of a subclass that is not complete."""
        return NotImplementedError(
            f"The source {self.name!r} ({type(self).__name__}) lacks {function}, which "
            f"a subclass of Source must have; define it, so that it {does}."
        )

    def identity(self):
        """SHA-256 that tells at a start whether these are the images of the last one.

        Unlike `fingerprint` it leaves labels out, and costs little for files of any
        number: it takes all names and the sizes of some.
        """
        digest = hashlib.sha256()
        self._identity(digest)
        return digest.hexdigest()

    def _identity(self, digest):
        self._fingerprint(digest)

    def subset(self, indices, name=None):
        """These images only, numbered from 0 in the given order.

        A source that is read in sequence reads past the others (without decoding
        them), and takes indices in ascending order only.
        """
        kind = _Subset if self.random_access else _StreamSubset
        return kind(self, np.asarray(indices, np.int64), name)


class _Subset(Source):
    def __init__(self, source, indices, name):
        if len(indices) and not 0 <= indices.min() <= indices.max() < source.num_images:
            raise ValueError(
                f"Indices from {indices.min()} to {indices.max()} received for "
                f"{source.name}, which has images 0 to {source.num_images - 1}."
            )
        self.encoded = source.encoded
        self._source = source
        self._indices = indices
        known = source.known_labels
        super().__init__(
            name or f"{len(indices)} images of {source.name}",
            len(indices),
            channels=source.channels,
            dtype=source.dtype,
            labels=None if known is None else known[indices],
            class_names=source.class_names,
            image_size=source.image_size,
        )
        self.maps = source.maps

    @property
    def holds_files(self):
        return self._source.holds_files

    def read(self, index):
        return self._source.read(self._of_all(index))

    def _of_all(self, index):
        return tf.gather(tf.constant(self._indices), index)

    def ready(self):
        if self.memory is not None:
            return super().ready()
        source = self._source.ready()
        if source is self._source:
            return self
        found = copy.copy(self)  # With the labels that it was given since.
        found._source, found.encoded = source, source.encoded
        found.image_size = source.image_size
        return found

    @property
    def stacked(self):
        stacked = self._source.stacked
        return None if stacked is None else lambda index: stacked(self._of_all(index))

    def decode(self, raw, side=None):
        return self._source.decode(raw, side)

    def decode_window(self, raw, boxes_of, sizes=None):
        return self._source.decode_window(raw, boxes_of, sizes)

    def file_of(self, raw):
        return self._source.file_of(raw)

    def describe(self, index):
        return self._source.describe(int(self._indices[index]))

    def attempts(self, index):
        return self._source.attempts(int(self._indices[index]))

    @property
    def has_names(self):
        return self._source.has_names

    @property
    def places(self):
        return self._of_these(self._source.places)

    @property
    def together(self):
        return self._of_these(self._source.together)

    def _of_these(self, of_all):
        """A function that gives something of each image, or None, of these alone."""

        def of_these():
            found = of_all()
            return [found[index] for index in self._indices]

        return None if of_all is None else of_these

    def _fingerprint(self, digest):
        digest.update(self._source.fingerprint().encode())
        digest.update(self._indices.astype("<i8").tobytes())

    def _identity(self, digest):
        digest.update(self._source.identity().encode())
        digest.update(self._indices.astype("<i8").tobytes())


class _StreamSubset(_Subset):
    random_access = False

    def __init__(self, source, indices, name):
        if (np.diff(indices) <= 0).any():
            raise ValueError(
                f"{source.name} is read in sequence: a part of it takes ascending "
                "indices, each once; sort them."
            )
        super().__init__(source, indices, name)

    @property
    def image_bytes(self):
        return self._source.image_bytes[self._indices]

    def stream(self):
        """Dataset of `(index, raw image)`, in the source's own order."""
        numbers = np.arange(len(self._indices))
        return passes.renumbered(self._source, self._indices, numbers)


def check_floats(low, high, name):
    """Raises `ValueError` unless float pixels lie in [0, 1].

    Args:
        low: the smallest value; NaN if any is.
        high: the largest value.
        name: of the images.
    """
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"Float images from {low:g} to {high:g} received ({name}), expected values "
            "in [0, 1]; scale them, or give uint8."
        )


def warn_of_layout(shape, name):
    """Says where the shape of an image looks like channels first.

    Args:
        shape: `(height, width, channels)`, None where it is not known.
        name: of the images.
    """
    first, channels = shape[0], shape[-1]
    if first in (1, 3, 4) and channels > 4:
        logging.warning(
            "%s: each image is taken as %s rows of %s pixels with %d channels; if "
            "channels come first in it, move them to the end "
            "(np.moveaxis(images, 1, -1)).",
            name,
            first,
            shape[1],
            channels,
        )

"""Images in memory: decoded, or as encoded files."""

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data.sources import base as source_lib


class _InMemory(source_lib.Source):
    """Images that a source holds, and that are not to be changed while it does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._identities = []  # None or one; copies with other labels share it.

    def identity(self):
        """As of any source; all bytes are hashed, once."""
        if not self._identities:
            self._identities.append(super().identity())
        return self._identities[0]


class ArraySource(_InMemory):
    """Decoded images of one size, in memory.

    Args:
        images: `(n, height, width[, channels])`, uint8, uint16 or float in [0, 1].
        labels: int `(n,)`, or `(n, classes)` for any number of classes per image (see
            `Source.label_sets`), or None.
        name: for logs.
        class_names: tuple or None.
    """

    def __init__(self, images, labels=None, *, name="array", class_names=None):
        images = np.asarray(images)
        if images.ndim == 3:
            _warn_of_one_image(images.shape, name)
            images = images[..., np.newaxis]
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(
                f"Images of shape {images.shape} received, expected (n, height, "
                "width) or (n, height, width, channels), none of them 0."
            )
        images = as_pixels(images, name)
        source_lib.warn_of_layout(images.shape[1:], name)
        super().__init__(
            name,
            len(images),
            channels=images.shape[-1],
            dtype=images.dtype.name,
            labels=labels,
            class_names=class_names,
            image_size=images.shape[1:3],
        )
        self._images = images
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._images)
        return tf.gather(self._tensor, index)

    def _fingerprint(self, digest):
        digest.update(str(self._images.shape).encode())
        digest.update(np.ascontiguousarray(self._images).reshape(-1).view(np.uint8))


def as_pixels(values, name):
    """An array of any shape in a dtype that pixels may have.

    Args:
        values: uint8, uint16 or float in [0, 1], in any order of bytes.
        name: of the images, for the message.

    Raises:
        ValueError: for anything else.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    if values.dtype.name not in source_lib.MAX_VALUE:
        raise ValueError(
            f"Images of dtype {values.dtype} received, expected uint8, uint16 or "
            "float in [0, 1]."
        )
    if values.dtype == np.float32 and values.size:
        source_lib.check_floats(values.min(), values.max(), name)
    return values


def _warn_of_one_image(shape, name):
    """Three axes may be meant as those of one image, `(height, width, channels)`."""
    count, height, width = shape
    if width in (1, 3, 4):
        logging.warning(
            "%s of shape %s is taken as %d grey images of %d x %d pixels; if it is one "
            "image, give images[np.newaxis].",
            name,
            shape,
            count,
            height,
            width,
        )


class BytesSource(_InMemory):
    """Encoded image files kept in memory.

    Args:
        files: list of `bytes`.
        names: what to call each, or None.
        **kwargs: see `Source`.
    """

    encoded = True

    def __init__(self, files, *, names=None, **kwargs):
        super().__init__(num_images=len(files), **kwargs)
        self._files = files
        self._names = names
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._files)
        return tf.gather(self._tensor, index)

    def describe(self, index):
        return self._names[index] if self._names else super().describe(index)

    @property
    def has_names(self):
        return bool(self._names)

    def _fingerprint(self, digest):
        for file in self._files:
            digest.update(file)

"""Images that are listed one by one: paths of files, or arrays of any sizes."""

import os

import numpy as np
import tensorflow as tf

from tfssl.data.sources import arrays, image_folder
from tfssl.data.sources import base as source_lib


def listed(images, *, channels=3, bit_depth=8):
    """Opens a list of image files, or of images in memory.

    Args:
        images: list of paths, or of arrays `(height, width[, channels])` of any sizes,
            all of one dtype (uint8, uint16 or float in [0, 1]) and as many channels.
        channels: 1, 3 or 4, what files are decoded to.
        bit_depth: 8 or 16, of files.

    Returns:
        A `Source`. Whether files are there and can be read is found out when they are
        decoded, as for a folder.

    Raises:
        ValueError: if there is none, or the entries are of several kinds.
    """
    if not images:
        raise ValueError("An empty list of images received; give at least one.")
    paths = [isinstance(image, str | os.PathLike) for image in images]
    if all(paths):
        return _of_files([os.fspath(path) for path in images], channels, bit_depth)
    if any(paths):
        raise ValueError(
            "A list of paths and of other things received; give paths only, or arrays "
            "only."
        )
    return ListSource([np.asarray(image) for image in images])


def _of_files(paths, channels, bit_depth):
    special = [path for path in paths if image_folder.is_special(path)]
    if special:
        raise ValueError(
            f"{special[0]!r} is a pipe, a socket or a device; list image files only."
        )
    name = paths[0] if len(paths) == 1 else f"the list of {len(paths)} files"
    return image_folder.FileSource(
        paths, name=name, channels=channels, bit_depth=bit_depth
    )


class ListSource(source_lib.Source):
    """Decoded images in memory, of any sizes.

    Args:
        images: list of arrays `(height, width[, channels])`, all of one dtype (uint8,
            uint16 or float in [0, 1]) and as many channels.
        name: for logs.

    Raises:
        ValueError: for anything else.
    """

    def __init__(self, images, *, name="list"):
        images = [
            image[..., np.newaxis] if image.ndim == 2 else image for image in images
        ]
        first = images[0]
        for place, image in enumerate(images):
            if image.ndim != 3 or 0 in image.shape:
                raise ValueError(
                    f"An image of shape {image.shape} received at place {place} of a "
                    "list, expected (height, width) or (height, width, channels), none "
                    "of them 0."
                )
            if (image.dtype, image.shape[2]) != (first.dtype, first.shape[2]):
                raise ValueError(
                    f"Images of {first.dtype} with {first.shape[2]} channels and of "
                    f"{image.dtype} with {image.shape[2]} received in one list; give "
                    "images of one kind."
                )
        pixels = np.concatenate([image.reshape(-1) for image in images])
        pixels = arrays.as_pixels(pixels, name)
        source_lib.warn_of_layout(first.shape, name)
        super().__init__(
            name,
            len(images),
            channels=first.shape[2],
            dtype=pixels.dtype.name,
            labels=None,
            class_names=None,
        )
        self._pixels = pixels
        self._shapes = np.array([image.shape for image in images], np.int64)
        self._tensors = None

    def read(self, index):
        if self._tensors is None:
            ends = np.cumsum(self._shapes.prod(axis=1))
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensors = [
                    tf.constant(part) for part in (self._pixels, self._shapes, ends)
                ]
        pixels, shapes, ends = self._tensors
        shape, end = tf.gather(shapes, index), tf.gather(ends, index)
        image = tf.reshape(pixels[end - tf.reduce_prod(shape) : end], shape)
        return tf.ensure_shape(image, (None, None, self.channels))

    def _fingerprint(self, digest):
        digest.update(self._shapes.astype("<i8").tobytes())
        digest.update(self._pixels.view(np.uint8))

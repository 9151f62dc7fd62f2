"""Images that come in sequence: a `tf.data.Dataset` of the user, a large TFDS set."""

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import source as source_lib

# Images at the beginning that tell a data set from another one.
_IDENTIFYING = 8


class StreamSource(source_lib.Source):
    """Images that come in sequence, always the same: a `tf.data.Dataset`.

    Args:
        dataset: finite and deterministic; dicts with `"image"` (pixels, or a string
            scalar for an encoded file) and optionally `"label"`.
        name: for logs.
        num_images: int, or None to count them once.
        channels: int, needed for encoded files.
        bytes_per_image: estimate, which bounds the shuffle buffer.
    """

    random_access = False

    def __init__(
        self,
        dataset,
        *,
        name,
        num_images=None,
        channels=None,
        class_names=None,
        bit_depth=8,
        bytes_per_image=None,
    ):
        dataset, spec = _as_dicts(dataset)
        image = spec["image"]
        self.encoded = image.dtype == tf.string
        if num_images is None:
            num_images = _count(dataset, name)
        if self.encoded:
            channels = channels or 3
            dtype = "uint16" if bit_depth == 16 else "uint8"
            size = None
        else:
            if image.shape.rank != 3 or image.shape[-1] is None:
                raise ValueError(
                    f"{name} has images of shape {image.shape}, expected (height, "
                    "width, channels) with known channels; set_shape in your map."
                )
            if 0 in image.shape:
                raise ValueError(
                    f"{name} has images of shape {image.shape}, expected some pixels."
                )
            channels, dtype = image.shape[-1], image.dtype.name
            size = tuple(image.shape[:2]) if None not in image.shape[:2] else None
        if dtype not in source_lib.MAX_VALUE:
            raise ValueError(
                f"{name} has images of dtype {dtype}, expected uint8, uint16, float32 "
                "in [0, 1], or a string with the encoded file."
            )
        super().__init__(
            name,
            num_images,
            channels=channels,
            dtype=dtype,
            labels=self._read_labels if "label" in spec else None,
            class_names=class_names,
            image_size=size,
        )
        self._dataset = dataset
        pixels = int(
            np.prod([n or 256 for n in image.shape.as_list() or [256, 256, 3]])
        )
        width = 1 if self.encoded else image.dtype.size
        self.bytes_per_image = bytes_per_image or (
            100_000 if self.encoded else pixels * width
        )

    def _read_labels(self):
        found = self._dataset.map(lambda e: e["label"]).as_numpy_iterator()
        return np.fromiter((int(v) for v in found), np.int64)

    def stream(self):
        """Dataset of `(index, raw image)`, in the source's own order."""

        def raw(index, element):
            image = element["image"]
            if not self.encoded and self.image_size is None:
                what = [f"{self.name}: this image has no pixels; leave it out:", index]
                check = tf.debugging.Assert(tf.size(image) > 0, what)
                with tf.control_dependencies([check]):
                    image = tf.identity(image)
            return index, image

        return self._dataset.enumerate().map(raw)

    def _fingerprint(self, digest):
        digest.update(f"{self.name} {self.num_images}".encode())

    def _identity(self, digest):
        digest.update(f"{self.name} {self.num_images}".encode())
        for _, image in self.stream().take(_IDENTIFYING).ignore_errors():
            digest.update(np.asarray(image.numpy()).tobytes())


def _as_dicts(dataset):
    spec = dataset.element_spec
    if isinstance(spec, dict) and "image" in spec:
        keys = [key for key in ("image", "label") if key in spec]
        dataset = dataset.map(lambda e: {key: e[key] for key in keys})
    elif isinstance(spec, tuple) and len(spec) == 2:
        dataset = dataset.map(lambda image, label: {"image": image, "label": label})
    elif isinstance(spec, tf.TensorSpec):
        dataset = dataset.map(lambda image: {"image": image})
    else:
        raise ValueError(
            f"A dataset of {spec} received, expected images, (image, label) pairs, or "
            "dicts with 'image' and optionally 'label'."
        )
    return dataset, dataset.element_spec


def _count(dataset, name):
    count = int(dataset.cardinality().numpy())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} repeats for ever; remove its repeat().")
    if count == tf.data.UNKNOWN_CARDINALITY:
        logging.info("Counting the images of %s once.", name)
        count = int(dataset.reduce(np.int64(0), lambda n, _: n + 1).numpy())
    return count

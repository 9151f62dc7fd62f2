"""Images that come in sequence: a `tf.data.Dataset` of the user, a large TFDS set.

An image is known by its place in the sequence: its label, its part (training or
validation), its row in a memory. So the sequence must be the same in every pass. One
pass notes a hash of each image with its label, and every later pass must agree with it.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import passes, running
from tfssl.data.sources import base as source_lib

# Elements of further passes that are compared before the sequence is used.
_COMPARED = 256
_NOTED = 256  # Elements that are noted at a time.


@dataclasses.dataclass(frozen=True)
class _Notes:
    """What one pass over a dataset found.

    Attributes:
        images: int64 `(images,)`, hashes of the images.
        hashes: int64 `(images,)`, of the images and their labels.
        sizes: int64 `(images,)`, bytes of the images.
        labels: `(images,)`, or None.
    """

    images: np.ndarray
    hashes: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None


class StreamSource(source_lib.Source):
    """Images that come in sequence, always the same: a `tf.data.Dataset`.

    The dataset is read once when images, labels or the fingerprint are first asked for,
    or here to count the images where their number is not known.

    Args:
        dataset: finite, the same images in the same order in every pass; dicts with
            `"image"` (pixels, or a string scalar for an encoded file) and optionally
            `"label"` (one whole number; or, for any number of classes, whole numbers
            `(classes,)`, see `Source.label_sets`).
        name: for logs.
        num_images: int, or None to count them.
        channels: int, needed for encoded files.

    Raises:
        ValueError: for elements of another kind; and, when the dataset is read, if it
            gives other images or another order in its second pass, floats outside of
            [0, 1], labels that are no whole numbers, or fails.
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
    ):
        dataset, spec = _as_dicts(dataset, name)
        # Else a user's `deterministic = False` would hold for this pipeline too.
        options = tf.data.Options()
        options.deterministic = True
        self._dataset = dataset.with_options(options)
        self.name = name
        image = spec["image"]
        self.encoded = image.dtype == tf.string
        if self.encoded:
            channels = channels or 3
            dtype = "uint16" if bit_depth == 16 else "uint8"
            size = None
        else:
            channels, dtype, size = _pixels_of(image, name)
        if num_images is None:
            num_images = _cardinality(dataset, name)
        if num_images is None:
            logging.info("Counting the images of %s once.", name)
            num_images = len(self._notes.hashes)
        super().__init__(
            name,
            num_images,
            channels=channels,
            dtype=dtype,
            labels=(lambda: self._checked.labels) if "label" in spec else None,
            class_names=class_names,
            image_size=size,
        )

    @property
    def image_bytes(self):
        """Int64 `(num_images,)`: what each image takes in memory, as it comes."""
        return self._checked.sizes

    def stream(self):
        """Dataset of `(index, raw image)`, in the source's own order.

        Of encoded files, one that is lost on the way is `b""`; and the index is
        `passes.CHANGED` from where on the files are others than in the first pass.
        """
        noted = self._checked.hashes
        if self.encoded:
            files = self._dataset.map(
                lambda element: (_hash(element), element["image"]),
                num_parallel_calls=running.parallel(),
            )
            return passes.followed(files, noted)

        def raw(index, element):
            hashes = tf.constant(noted)
            place = tf.minimum(index, len(noted) - 1)
            same = (index < len(noted)) & (_hash(element) == tf.gather(hashes, place))
            told = passes.told(self.name, "this image")
            check = tf.debugging.Assert(same, [told, index])
            with tf.control_dependencies([check]):
                return index, tf.identity(element["image"])

        return self._dataset.enumerate().map(raw)

    @functools.cached_property
    @running.as_written
    def _notes(self):
        """`_Notes` of the first pass."""
        encoded = self.encoded

        def note(element):
            image = element["image"]
            of_image, of_element = _hashes(element)
            found = {
                "image": of_image,
                "hash": of_element,
                "empty": tf.equal(tf.size(image), 0),
                "size": _size(image),
            }
            if not encoded and image.dtype.is_floating:
                # The sum is 0, or NaN where a value is: minima leave NaN out.
                found["low"] = tf.reduce_min(image) + tf.reduce_sum(0.0 * image)
                found["high"] = tf.reduce_max(image)
            if "label" in element:
                found["label"] = element["label"]
            return found

        dataset = self._dataset.map(note, num_parallel_calls=tf.data.AUTOTUNE)
        images, hashes, sizes, labels = [], [], [], []
        for batch in _read(dataset.batch(_NOTED), self.name):
            if batch["empty"].any():
                place = _NOTED * len(hashes) + int(batch["empty"].argmax())
                raise ValueError(
                    f"Image {place} of {self.name} has no pixels; leave it out."
                )
            if "low" in batch:
                low, high = batch["low"].min(), batch["high"].max()
                source_lib.check_floats(low, high, self.name)
            images.append(batch["image"])
            hashes.append(batch["hash"])
            sizes.append(batch["size"])
            labels.append(batch.get("label"))
        if not hashes:
            raise ValueError(f"{self.name} holds no image; give at least one.")
        labels = None if labels[0] is None else np.concatenate(labels)
        return _Notes(*map(np.concatenate, (images, hashes, sizes)), labels)

    @functools.cached_property
    @running.as_written
    def _checked(self):
        """`_Notes` that the beginning of further passes agrees with."""
        hashes = self._notes.hashes
        if len(hashes) != self.num_images:
            raise ValueError(
                f"{self.name} gave {len(hashes)} images, expected {self.num_images}; "
                "give a dataset that is complete."
            )
        # Small sets are passed several times: two passes may agree by chance.
        again = self._dataset.repeat().map(_hash).take(_COMPARED).batch(_COMPARED)
        found = next(_read(again, self.name), np.zeros(0, np.int64))
        if not len(found):
            raise ValueError(passes.told(self.name, "image 0"))
        differ = found != hashes[np.arange(len(found)) % len(hashes)]
        if differ.any():
            place = int(differ.argmax()) % len(hashes)
            raise ValueError(passes.told(self.name, f"image {place}"))
        return self._notes

    def _fingerprint(self, digest):
        digest.update(self._checked.hashes.astype("<i8").tobytes())

    def _identity(self, digest):
        digest.update(self._checked.images.astype("<i8").tobytes())


def _hashes(element):
    """Int64 hashes of an element's image, and of both it and its label.

    They are the same in every process.
    """
    image = element["image"]
    if image.dtype != tf.string:
        image = tf.io.serialize_tensor(image)
    of_image = of_element = tf.strings.to_hash_bucket_fast(image, 2**62)
    if "label" in element:
        label = tf.strings.as_string(element["label"])
        if label.shape.rank == 1:
            label = tf.strings.reduce_join(label, separator=" ")
        of_element += tf.strings.to_hash_bucket_fast(label, 2**62)
    return of_image, of_element


def _hash(element):
    """Int64 hash of an element, image and label."""
    return _hashes(element)[1]


def _size(image):
    """Int64 bytes of an image, pixels or a file."""
    if image.dtype == tf.string:
        return tf.cast(tf.strings.length(image), tf.int64)
    return tf.size(image, tf.int64) * image.dtype.size


def _read(dataset, name):
    """The elements as NumPy; an error of the user's dataset as a plain sentence."""
    try:
        yield from dataset.as_numpy_iterator()
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # Messages quote bytes.
        reason = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"{name} could not be read to its end ({reason}); mend the dataset, or "
            "leave out what fails with its ignore_errors()."
        ) from error


@running.as_written
def _as_dicts(dataset, name):
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
    spec = dataset.element_spec
    label = spec.get("label")
    if label is not None and not (_is_number(label) or _is_set(label)):
        raise ValueError(
            f"{name} has labels of {label}, expected one whole number per image, -1 "
            "where unknown (of one-hot labels the argmax, of one in a list label[0]; "
            "image_dataset_from_directory: label_mode='int'), or 1, 0 and -1 for each "
            "of several classes, whole numbers of known length."
        )
    return dataset, spec


def _is_number(spec):
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank not in (0, None):
        return False
    return spec.dtype.is_integer or spec.dtype.is_floating or spec.dtype.is_bool


def _is_set(spec):
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank != 1:
        return False
    whole = spec.dtype.is_integer or spec.dtype.is_bool
    return whole and spec.shape[0] not in (None, 1)


def _pixels_of(spec, name):
    """`(channels, dtype, (height, width) or None)` of decoded images."""
    if spec.shape.rank != 3 or spec.shape[-1] is None:
        raise ValueError(
            f"{name} has images of shape {spec.shape}, expected (height, width, "
            "channels) with known channels; set_shape in your map."
        )
    if 0 in spec.shape:
        raise ValueError(
            f"{name} has images of shape {spec.shape}, expected some pixels."
        )
    if spec.dtype.name not in source_lib.MAX_VALUE:
        raise ValueError(
            f"{name} has images of dtype {spec.dtype.name}, expected uint8, uint16, "
            "float32 in [0, 1], or a string with the encoded file."
        )
    source_lib.warn_of_layout(spec.shape, name)
    size = None if None in spec.shape[:2] else tuple(spec.shape[:2])
    return spec.shape[-1], spec.dtype.name, size


def _cardinality(dataset, name):
    """The number of elements, or None where it is not known."""
    count = int(dataset.cardinality().numpy())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} repeats for ever; remove its repeat().")
    return None if count == tf.data.UNKNOWN_CARDINALITY else count

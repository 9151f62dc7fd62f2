"""TFDS data: small sets in memory as encoded files, large ones read in sequence."""

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.data.sources import arrays, label_sets, streams

# Sets up to this size are kept in memory: random access.
_MEMORY_BYTES = 1 << 30
_PIXELS = (np.uint8, np.uint16)


def open_tfds(kind, name, *, split, channels=None, bit_depth=8, data_dir=None):
    """Opens a TFDS data set; for the arguments see `sources.open_source`.

    Args:
        kind: `"tfds"`: `name` is registered, `"tfds-dir"`: it is a prepared folder.
        name: name or folder.
        split: name of a split, or a slice of one.
        channels: int or None for the data's own.
        bit_depth: 8 or 16.
        data_dir: where prepared data lies, or None.

    Raises:
        ValueError: if there is no such data set, split, or feature `image`.
    """
    import tensorflow_datasets as tfds  # A tenth of a second, and seldom needed.

    try:
        if kind == "tfds":
            # A data service has a working directory of its own.
            data_dir = None if data_dir is None else files.absolute(data_dir)
            builder = tfds.builder(name, data_dir=data_dir)
            if not builder.info.splits:
                builder.download_and_prepare()
        else:
            builder = tfds.builder_from_directory(files.absolute(name))
    except (tfds.core.registered.DatasetNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"TFDS cannot open {name!r} ({first}); check the name, or prepare "
            "the data with TFDS."
        ) from error
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"split={split!r} received for TFDS {name}, which has "
            f"{', '.join(builder.info.splits)}."
        ) from error
    features = builder.info.features
    _check_image(name, features)
    # Always in the same order: the place in it is the image's number.
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    channels = channels or features["image"].shape[-1] or 3
    title, kind, several = _labels(name, features)
    class_names = getattr(kind, "names", None)
    shared = dict(
        name=f"tfds:{name}/{split}",
        channels=channels,
        class_names=tuple(class_names) if class_names else None,
    )

    def needed(element):
        if title is None:
            return {"image": element["image"]}
        label = _marks(element, title, kind.num_classes) if several else element[title]
        return {"image": element["image"], "label": label}

    dataset = dataset.map(needed)
    small = _bytes(builder.info.splits, info) <= _MEMORY_BYTES
    elements = _elements(dataset) if small else None
    if elements is None:
        source = streams.StreamSource(
            dataset, num_images=info.num_examples, bit_depth=bit_depth, **shared
        )
    else:
        source = arrays.BytesSource(
            [e["image"] for e in elements],
            dtype="uint16" if bit_depth == 16 else "uint8",
            labels=(lambda: [e["label"] for e in elements]) if title else None,
            **shared,
        )
    source.places = lambda: _places(info)
    return source


def _places(part):
    """Where each image of a part lies: its file, and its number there."""
    return [
        f"{file.filename} {number}"
        for file in part.file_instructions
        for number in range(file.skip, file.skip + file.take)
    ]


def _bytes(splits, part):
    """Bytes of a split or of parts of some, by their examples; 0 where not known."""
    each = {}
    for split in splits.values():
        if split.num_examples:
            files = (file.filename for file in split.file_instructions)
            each |= dict.fromkeys(files, split.num_bytes / split.num_examples)
    return sum(file.take * each[file.filename] for file in part.file_instructions)


def _elements(dataset):
    """List of what a dataset gives, or None where its images are many bytes."""
    elements, size = [], 0
    for element in dataset.as_numpy_iterator():
        size += len(element["image"])
        if size > _MEMORY_BYTES:
            return None
        elements.append(element)
    return elements


def _check_image(name, features):
    """Raises `ValueError` unless there are images as files, which can be read."""
    import tensorflow_datasets as tfds

    if "image" not in features:
        raise ValueError(
            f"TFDS {name} has no feature 'image' but {', '.join(features)}; map it to "
            "a tf.data.Dataset of images yourself."
        )
    found = features["image"]
    # Floats lie in a file of other pixels, as four bytes each.
    files = isinstance(found, tfds.features.Image) and found.np_dtype in _PIXELS
    if not files:
        raise ValueError(
            f"The feature 'image' of TFDS {name} is {_told(found)}, expected an Image "
            "of uint8 or uint16; map the data to a tf.data.Dataset of images yourself."
        )


def _told(feature):
    """A feature in words."""
    of = getattr(feature, "feature", None)  # Of a sequence.
    kind = _told(of) if of is not None else feature.np_dtype
    return f"{type(feature).__name__} of {getattr(kind, '__name__', kind)}"


def _labels(name, features):
    """What the images' classes are: the name of a feature, its kind, if any number.

    The kind is that of one class; all are None where there are no classes.
    """
    import tensorflow_datasets as tfds

    for title in ("label", "labels"):
        found = features[title] if title in features else None
        if isinstance(found, tfds.features.Sequence):
            if isinstance(found.feature, tfds.features.ClassLabel):
                return title, found.feature, True
        elif isinstance(found, tfds.features.ClassLabel) or _is_number(found):
            return title, found, False
        if found is not None:
            logging.warning(
                "TFDS %s: the feature %r is %s, which tells no classes, and is left "
                "out.",
                name,
                title,
                _told(found),
            )
    return None, None, False


def _is_number(feature):
    """Whether a feature is one number, which may prove to be a whole one."""
    spec = feature and feature.get_tensor_spec()
    if not isinstance(spec, tf.TensorSpec) or spec.shape != ():
        return False
    return spec.dtype.is_integer or spec.dtype.is_bool or spec.dtype.is_floating


def _marks(element, title, classes):
    """Which classes an image has, int8 `(classes,)`; -1 for VOC's difficult ones."""

    def among(numbers):
        return tf.reduce_any(tf.one_hot(numbers, classes, True, False), 0)

    has = among(element[title])
    sure = has
    if "labels_no_difficult" in element:
        sure = among(element["labels_no_difficult"])
    marks = tf.where(has, label_sets.UNKNOWN, label_sets.HAS_NOT)
    return tf.cast(tf.where(sure, label_sets.HAS, marks), tf.int8)

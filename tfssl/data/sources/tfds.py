"""TFDS data: small sets in memory as encoded files, large ones read in sequence."""

import tensorflow as tf

from tfssl.data.sources import arrays, label_sets, streams

# Sets up to this size are kept in memory: random access.
_MEMORY_BYTES = 1 << 30


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
            builder = tfds.builder(name, data_dir=data_dir)
            if not builder.info.splits:
                builder.download_and_prepare()
        else:
            builder = tfds.builder_from_directory(name)
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
    if "image" not in features:
        raise ValueError(
            f"TFDS {name} has no feature 'image' but {', '.join(features)}; map it to "
            "a tf.data.Dataset of images yourself."
        )
    # Always in the same order: the place in it is the image's number.
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    channels = channels or features["image"].shape[-1] or 3
    several = "label" not in features and _has_sets(features)
    if several:
        kind = features["labels"].feature
    else:
        kind = features["label"] if "label" in features else None
    labelled, class_names = kind is not None, getattr(kind, "names", None)
    size = info.num_bytes or 0
    shared = dict(
        name=f"tfds:{name}/{split}",
        channels=channels,
        class_names=tuple(class_names) if class_names else None,
    )
    if several:
        dataset = dataset.map(lambda e: e | {"label": _marks(e, kind.num_classes)})
    keys = ("image", "label") if labelled else ("image",)
    dataset = dataset.map(lambda e: {key: e[key] for key in keys})
    if size > _MEMORY_BYTES:
        return streams.StreamSource(
            dataset,
            num_images=info.num_examples,
            bit_depth=bit_depth,
            bytes_per_image=size // max(1, info.num_examples),
            **shared,
        )
    elements = list(dataset.as_numpy_iterator())
    return arrays.BytesSource(
        [e["image"] for e in elements],
        dtype="uint16" if bit_depth == 16 else "uint8",
        labels=[e["label"] for e in elements] if labelled else None,
        **shared,
    )


def _has_sets(features):
    """Whether the images of a data set have any number of classes."""
    import tensorflow_datasets as tfds

    found = features["labels"] if "labels" in features else None
    lists = isinstance(found, tfds.features.Sequence)
    return lists and isinstance(found.feature, tfds.features.ClassLabel)


def _marks(element, classes):
    """Which classes an image has, int8 `(classes,)`; -1 for VOC's difficult ones."""

    def among(numbers):
        return tf.reduce_any(tf.one_hot(numbers, classes, True, False), 0)

    has = among(element["labels"])
    sure = has
    if "labels_no_difficult" in element:
        sure = among(element["labels_no_difficult"])
    marks = tf.where(has, label_sets.UNKNOWN, label_sets.HAS_NOT)
    return tf.cast(tf.where(sure, label_sets.HAS, marks), tf.int8)

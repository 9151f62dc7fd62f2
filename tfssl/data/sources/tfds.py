"""TFDS data: small sets in memory as encoded files, large ones read in sequence."""

from tfssl.data.sources import arrays, streams

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
    labelled = "label" in features
    channels = channels or features["image"].shape[-1] or 3
    class_names = getattr(features["label"], "names", None) if labelled else None
    size = info.num_bytes or 0
    shared = dict(
        name=f"tfds:{name}/{split}",
        channels=channels,
        class_names=tuple(class_names) if class_names else None,
    )
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

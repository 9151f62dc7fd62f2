"""TFRecord files that have no index: where their records start, what they hold.

The framing is read once, which takes a seek per record on local files and a whole pass
over remote ones. Labels need a pass of their own, if they are used.
"""

import os
import struct

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import running

ENCODED, PIXELS = "image/encoded", "image/pixels"
HEIGHT, WIDTH = "image/height", "image/width"
LABEL, FILENAME = "image/class/label", "image/filename"
MARKS = "image/class/marks"  # Of any number of classes: 1, 0 or -1 for each.
# A record's length (8 bytes) and its CRC stand before it, the CRC of its data after.
FRAME = 16
# First bytes of compressed files, and what unpacks them.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_SAMPLE = 256  # Records, spread over the files, that tell whether there are labels.
_SHOWN = 5


def matching(spec):
    """Paths of the files that a pattern names, sorted.

    Brackets that match nothing as a pattern are taken as they are written.

    Raises:
        ValueError: if there are none, or it is a folder.
    """
    if tf.io.gfile.isdir(spec):
        raise ValueError(
            f"tfrecord:{spec} is a folder; expected an index (….json) or a pattern of "
            f"files, such as {os.path.join(spec, 'train-*')!r}."
        )
    paths = tf.io.gfile.glob(spec) or tf.io.gfile.glob(spec.replace("[", "[[]"))
    if not paths:
        raise ValueError(
            f"No file matches tfrecord:{spec}; expected an index (….json) or a "
            "pattern such as 'records/train-*'."
        )
    folders = [path for path in paths if tf.io.gfile.isdir(path)]
    if folders:
        raise ValueError(
            f"tfrecord:{spec} matches the folder {folders[0]}; name the files in it."
        )
    return sorted(paths)


def lengths(path):
    """Bytes of each record of a file, int64, by the frames around them.

    Raises:
        ValueError: if they do not fill the file.
    """
    size = tf.io.gfile.stat(path).length
    opened = tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb")
    found, place = [], 0
    with opened as file:
        start = file.read(2)
        while place < size:
            file.seek(place)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            place += length + FRAME
            found.append(length)
    if place != size and start in _COMPRESSED:
        raise ValueError(
            f"{path} is compressed ({_COMPRESSED[start]}), and records are read at "
            "random; write it without compression."
        )
    if place != size:
        raise ValueError(
            f"{path} is cut short, or no TFRecord file: record {len(found) - 1} "
            f"should end at byte {place}, the file at {size}; copy it again."
        )
    return np.asarray(found, np.int64)


def check_crcs(path):
    """Raises `ValueError` if a record of a file has a wrong CRC."""
    try:
        for _ in tf.data.TFRecordDataset(path):
            pass
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"{path} holds a record with a wrong CRC; copy the file again."
        ) from error


def check(source):
    """Whether records are labelled, by some of them spread over all files.

    Args:
        source: `RecordSource` of files without an index.

    Raises:
        ValueError: unless one of them can be read and holds one image.
    """
    places = np.linspace(0, source.num_images - 1, _SAMPLE).astype(np.int64)
    found = [(index, _features(record)) for index, record in _readable(source, places)]
    if not found:
        raise ValueError(
            f"{source.describe(0)} and the others that were tried are damaged or no "
            "tf.train.Example; make the records anew with pipelines.make_tfrecords."
        )
    index, features = found[0]
    _check_image(features, source.describe(index))
    return any(LABEL in features or MARKS in features for _, features in found)


def labels(source):
    """Labels or marks of all records, -1 where a record has none or is damaged.

    Args:
        source: `RecordSource` of files without an index.

    Raises:
        ValueError: naming the record, for a label that is not one int64, and for marks
            of another number than those of the records before.
    """
    logging.info("Reading the labels of %s once.", source.name)
    found, marks = np.full(source.num_images, -1, np.int64), None
    read = np.zeros(source.num_images, bool)
    for index, record in _readable(source, np.arange(source.num_images)):
        read[index] = True
        features = _features(record)
        if MARKS in features:
            row = features[MARKS].int64_list.value
            if marks is None:
                marks = np.full((source.num_images, len(row)), -1, np.int64)
            if len(row) != marks.shape[1]:
                raise ValueError(
                    f"{source.describe(index)} has {len(row)} numbers in '{MARKS}', "
                    f"others {marks.shape[1]}; write one for every class."
                )
            marks[index] = row
        elif LABEL in features:
            found[index] = _label(features[LABEL], source.describe(index))
    lost = np.flatnonzero(~read)
    if len(lost):
        shown = ", ".join(source.describe(i) for i in lost[:_SHOWN])
        logging.warning(
            "%s: %d damaged record(s) count as unlabelled and unreadable: %s%s",
            source.name,
            len(lost),
            shown,
            ", …" if len(lost) > _SHOWN else "",
        )
    return found if marks is None else marks


@running.as_written
def _readable(source, places):
    """`(index, bytes)` of the records at these places that can be read as Examples."""

    def read(index):
        record = source.read(index)  # An error where the CRC is wrong.
        # An error where it is no Example. A result that is not handed on is not made.
        kinds = {ENCODED: tf.io.VarLenFeature(tf.string)}
        parsed = tf.io.parse_single_example(record, kinds)
        return index, record, tf.size(parsed[ENCODED].values)

    dataset = tf.data.Dataset.from_tensor_slices(np.unique(places))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    found = dataset.ignore_errors().with_options(options).as_numpy_iterator()
    return ((index, record) for index, record, _ in found)


def _features(record):
    return tf.train.Example.FromString(record).features.feature


def _check_image(features, name):
    if ENCODED not in features:
        hint = "open its index" if PIXELS in features else "for TFDS use tfds-dir:PATH"
        raise ValueError(
            f"{name} has no '{ENCODED}' but "
            f"{', '.join(sorted(features)[:8]) or 'nothing'}; {hint}."
        )
    count = len(features[ENCODED].bytes_list.value)
    if count != 1:
        raise ValueError(
            f"{name} has {count} images in '{ENCODED}', expected one; write a record "
            "for each image."
        )


def _label(feature, name):
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if kind != "int64_list" or len(values) != 1:
        what = {"bytes_list": "text", "float_list": "floats", None: "nothing"}.get(kind)
        raise ValueError(
            f"{name} has {what or f'{len(values)} numbers'} in '{LABEL}', expected one "
            "whole number (int64); write one label, or leave the feature out where it "
            "is unknown. labels='none' reads the images without labels."
        )
    return values[0]

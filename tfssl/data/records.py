"""Images in sharded TFRecord files, read in any order.

A record is a `tf.train.Example`; where each one starts is known, from an index that
`tasks.make_tfrecords` writes or from one pass over the framing of the files. So
records are a source like a folder: the order is a shuffle of all images, and any
worker starts anywhere. TensorFlow checks the CRC of each record that it reads.

```
NAME.json                       the index, see `read_index`
NAME-00000-of-00016.tfrecord    image/encoded          bytes of the image file, or
…                               image/pixels, image/height, image/width   raw pixels
                                image/class/label      int64, where it is known
                                image/filename         what the source called it
```
"""

import dataclasses
import hashlib
import json
import os
import struct

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import checks
from tfssl.data import source as source_lib

FORMAT = "tfssl records 1"
ENCODED, PIXELS = "image/encoded", "image/pixels"
HEIGHT, WIDTH = "image/height", "image/width"
LABEL, FILENAME = "image/class/label", "image/filename"
# A record's length (8 bytes) and its CRC stand before it, the CRC of its data after.
FRAME = 16
_CHUNK = 1 << 23


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        path: of the file.
        lengths: int64 `(records,)`, bytes of each record without its frame.
    """

    path: str
    lengths: np.ndarray

    @property
    def size(self):
        """Bytes of the whole file."""
        return int(self.lengths.sum()) + FRAME * len(self.lengths)


class RecordSource(source_lib.Source):
    """Images in TFRecord files.

    Args:
        shards: sequence of `Shard`.
        names: what to call each image, or None.
        pixels: whether the records hold raw pixels rather than image files.
        digest: what the fingerprint is made of, bytes.
        **kwargs: see `Source`.
    """

    encoded = True

    def __init__(self, shards, *, names=None, pixels=False, digest=b"", **kwargs):
        counts = [len(shard.lengths) for shard in shards]
        self._pixels = pixels
        super().__init__(num_images=sum(counts), **kwargs)
        self._paths = [shard.path for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards)), counts)
        self._lengths = np.concatenate([shard.lengths for shard in shards])
        starts = [np.cumsum(s.lengths + FRAME) - s.lengths - FRAME for s in shards]
        self._starts = np.concatenate(starts)
        self._first = np.cumsum(counts) - counts
        self._names = names
        self._digest = digest
        self._tensors = None

    def read(self, index):
        """Record `index`, a serialised `tf.train.Example`."""
        if self._tensors is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensors = [
                    tf.constant(self._paths),
                    tf.constant(self._shard_of, tf.int64),
                    tf.constant(self._starts, tf.int64),
                    tf.constant(self._lengths, tf.int64),
                ]
        paths, shard_of, starts, lengths = self._tensors
        path = tf.gather(paths, tf.gather(shard_of, index))
        # The only operation that reads a file from some byte on.
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=[path],
            compression_type="",
            buffer_size=tf.gather(lengths, index) + FRAME,
            byte_offsets=[tf.gather(starts, index)],
            metadata="",
        )
        kind = {"output_types": [tf.string], "output_shapes": [[]], "metadata": ""}
        one = tf.raw_ops.TakeDataset(input_dataset=records, count=np.int64(1), **kind)
        return tf.raw_ops.DatasetToSingleElement(dataset=one, **kind)[0]

    @property
    def holds_files(self):
        return not self._pixels

    def file_of(self, raw):
        return _parsed(raw, {ENCODED: tf.string})[ENCODED]

    def decode(self, raw, side=None):
        if not self._pixels:
            return super().decode(self.file_of(raw), side)
        keys = {PIXELS: tf.string, HEIGHT: tf.int64, WIDTH: tf.int64}
        found = _parsed(raw, keys)
        values = tf.io.decode_raw(found[PIXELS], tf.as_dtype(self.dtype))
        return tf.reshape(values, [found[HEIGHT], found[WIDTH], self.channels])

    def decode_window(self, raw, boxes_of, sizes=None):
        if not self._pixels:
            return super().decode_window(self.file_of(raw), boxes_of, sizes)
        pixels = self.decode(raw)
        shape = tf.shape(pixels)
        return pixels, boxes_of(shape[0], shape[1])

    def describe(self, index):
        if self._names is not None:
            return self._names[index]
        shard = self._shard_of[index]
        return f"{self._paths[shard]}[{index - self._first[shard]}]"

    def _fingerprint(self, digest):
        digest.update(self._digest)


def _parsed(raw, kinds):
    features = {key: tf.io.FixedLenFeature([], kind) for key, kind in kinds.items()}
    return tf.io.parse_single_example(raw, features)


def open_records(spec, *, channels=None, bit_depth=8, verify=False):
    """Opens TFRecord files.

    Args:
        spec: path of an index (`….json`), or a pattern of files (`…/train-*`) whose
            records hold `image/encoded` and, if they are labelled,
            `image/class/label`. Files of a pattern have no index: their framing is
            read once, which takes a seek per record on local files and a whole pass
            over remote ones. Labels then need a pass of their own, if they are used.
        channels: 1, 3 or 4; None takes the index's, or 3.
        bit_depth: 8 or 16, of image files.
        verify: check every byte first: SHA-256 of the files of an index, the CRC of
            each record of a pattern.

    Raises:
        ValueError: naming the file that is missing, cut short, changed or no TFRecord
            file.
    """
    if spec.endswith(".json"):
        return _open_index(spec, channels, bit_depth, verify)
    paths = sorted(tf.io.gfile.glob(spec))
    if not paths:
        raise ValueError(
            f"No file matches tfrecord:{spec}; expected an index (….json) or a "
            "pattern such as 'records/train-*'."
        )
    shards = [Shard(path, _scan(path)) for path in paths]
    if verify:
        for shard in shards:
            _check_records(shard)
    if not sum(len(shard.lengths) for shard in shards):
        raise ValueError(f"The files of tfrecord:{spec} hold no record.")
    labelled = _check_example(shards)
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(os.path.basename(shard.path).encode())
        digest.update(shard.lengths.astype("<i8").tobytes())
    return RecordSource(
        shards,
        name=f"tfrecord:{spec}",
        channels=channels or 3,
        dtype="uint16" if bit_depth == 16 else "uint8",
        labels=(lambda: _read_labels(paths)) if labelled else None,
        class_names=None,
        digest=digest.digest(),
    )


# With an index ----------------------------------------------------------------


def read_index(path):
    """The content of an index, checked.

    It is JSON: `format`, `num_images`, `channels`, `dtype`, `pixels` (bool),
    `class_names` (list or null), `images` (what the source was called), `origin`
    (fingerprint of the source and how it was written), and `shards`, a list of objects
    with `file`, `count`, `bytes`, `sha256`, `lengths` (bytes of each record; a record
    starts where those before it, 16 bytes of frame each, end), `names`, `labels` (-1
    where unknown; or null) and `skipped` (unreadable images that were left out).

    Raises:
        ValueError: if it is no index.
    """
    if not tf.io.gfile.exists(path):
        raise ValueError(f"There is no index at {path!r}; check the path.")
    try:
        with tf.io.gfile.GFile(path) as file:
            index = json.loads(file.read())
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']!r}")
        for shard in index["shards"]:
            lists = [shard["lengths"], shard["names"], shard["labels"]]
            if any(len(x) != shard["count"] for x in lists if x is not None):
                raise ValueError(f"lists of other lengths than {shard['count']}")
            if os.path.basename(shard["file"]) != shard["file"]:
                raise ValueError(f"the file {shard['file']!r} in another folder")
        if index["num_images"] != sum(s["count"] for s in index["shards"]):
            raise ValueError(f"num_images {index['num_images']}")
        checks.one_of(index, "dtype", source_lib.MAX_VALUE)
        checks.whole(index, "channels")
        checks.one_of(index, "pixels", (True, False))
        if index["class_names"] is not None:
            tuple(index["class_names"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no index of records ({type(error).__name__}: {error}); make "
            "it with pipelines.make_tfrecords."
        ) from error
    return index


def _open_index(path, channels, bit_depth, verify):
    index = read_index(path)
    shards, digest = [], hashlib.sha256()
    for entry in index["shards"]:
        file = os.path.join(os.path.dirname(path), entry["file"])
        shard = Shard(file, np.asarray(entry["lengths"], np.int64))
        _check_size(shard)
        if verify and sha256(file) != entry["sha256"]:
            raise ValueError(
                f"{file} has changed since {path} was written: another SHA-256; copy "
                "it again, or delete it and run make_tfrecords once more."
            )
        shards.append(shard)
        digest.update(entry["sha256"].encode())
    labels, names = (
        None
        if any(entry[key] is None for entry in index["shards"])
        else [value for entry in index["shards"] for value in entry[key]]
        for key in ("labels", "names")
    )
    dtype = index["dtype"]
    if not index["pixels"] and bit_depth == 16:
        dtype = "uint16"
    return RecordSource(
        shards,
        name=f"tfrecord:{path}",
        channels=index["channels"]
        if index["pixels"]
        else channels or index["channels"],
        dtype=dtype,
        labels=labels,
        class_names=tuple(index["class_names"]) if index["class_names"] else None,
        names=names,
        pixels=index["pixels"],
        digest=digest.digest(),
    )


def _check_size(shard):
    if not tf.io.gfile.exists(shard.path):
        raise ValueError(
            f"The shard {shard.path} is missing; copy it, or run make_tfrecords again."
        )
    found = tf.io.gfile.stat(shard.path).length
    if found != shard.size:
        raise ValueError(
            f"{shard.path} has {found} bytes, but {shard.size} by its index: it is cut "
            "short or was replaced; copy it again, or delete it and run make_tfrecords "
            "once more."
        )


def sha256(path):
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# Without an index -------------------------------------------------------------


def _scan(path):
    """Lengths of the records of a file, by the frames around them."""
    size = tf.io.gfile.stat(path).length
    opened = tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb")
    lengths, place = [], 0
    with opened as file:
        while place < size:
            file.seek(place)
            head = file.read(8)
            if place == 0 and head[:2] == b"\x1f\x8b":
                raise ValueError(
                    f"{path} is compressed, and records are read at random; unpack it "
                    "with gunzip."
                )
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            place += length + FRAME
            lengths.append(length)
    if place != size:
        raise ValueError(
            f"{path} is cut short, or no TFRecord file: record {len(lengths) - 1} "
            f"should end at byte {place}, the file at {size}; copy it again."
        )
    return np.asarray(lengths, np.int64)


def _check_records(shard):
    try:
        for _ in tf.data.TFRecordDataset(shard.path):
            pass
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"{shard.path} holds a record with a wrong CRC; copy the file again."
        ) from error


def _check_example(shards):
    """Whether the first record has a label; raises unless it holds an image."""
    path = next(shard.path for shard in shards if len(shard.lengths))
    try:
        first = next(iter(tf.data.TFRecordDataset(path)))
        # Where it is no Example, this raises an error of TensorFlow's.
        tf.io.parse_single_example(first, {ENCODED: tf.io.VarLenFeature(tf.string)})
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # Messages quote bytes.
        raise ValueError(
            f"{path} holds no tf.train.Example in its first record; make the records "
            "anew with pipelines.make_tfrecords."
        ) from error
    features = tf.train.Example.FromString(first.numpy()).features.feature
    if ENCODED not in features:
        hint = "open its index" if PIXELS in features else "for TFDS use tfds-dir:PATH"
        raise ValueError(
            f"The records of {path} have no '{ENCODED}' but "
            f"{', '.join(sorted(features)[:8]) or 'nothing'}; {hint}."
        )
    return LABEL in features


def _read_labels(paths):
    logging.info("Reading the labels of %d record files once.", len(paths))
    feature = {LABEL: tf.io.FixedLenFeature([], tf.int64, -1)}
    records = tf.data.TFRecordDataset(paths).batch(256)
    found = [tf.io.parse_example(batch, feature)[LABEL] for batch in records]
    return np.concatenate(found)

"""Images in sharded TFRecord files, read in any order.

A record is a `tf.train.Example`; where each one starts is known, from an index that
`tasks.make_tfrecords` writes or from one pass over the framing of the files. So
records are a source like a folder: the order is a shuffle of all images, and any
worker starts anywhere. TensorFlow checks the CRC of each record that it reads.

```
NAME.json                       the index, see `read_index`
NAME-00000-of-00016.tfrecord    image/encoded          bytes of the image file, or
…                               image/pixels, image/height, image/width   raw pixels
                                image/class/label      int64, where it is known, or
                                image/class/marks      int64 for each class: 1, 0, -1
                                image/filename         what the source called it
```
"""

import dataclasses
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from tfssl import checks, files
from tfssl.data.sources import base as source_lib
from tfssl.data.sources import record_files
from tfssl.data.sources.record_files import ENCODED, FRAME, HEIGHT, PIXELS, WIDTH

FORMAT = "tfssl records 1"
_CHUNK = 1 << 23
_SAMPLE = 16


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
                    # A data service has a working directory of its own.
                    tf.constant([files.absolute(path) for path in self._paths]),
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
        pixels = self._unchecked(raw)
        if not pixels.dtype.is_floating:
            return pixels
        inside = tf.reduce_all((pixels >= 0.0) & (pixels <= 1.0))
        check = tf.debugging.Assert(inside, [source_lib.OUT_OF_RANGE])
        with tf.control_dependencies([check]):
            return tf.identity(pixels)

    def _unchecked(self, raw):
        keys = {PIXELS: tf.string, HEIGHT: tf.int64, WIDTH: tf.int64}
        found = _parsed(raw, keys)
        values = tf.io.decode_raw(found[PIXELS], tf.as_dtype(self.dtype))
        return tf.reshape(values, [found[HEIGHT], found[WIDTH], self.channels])

    def check_floats(self):
        """Raises `ValueError` if some images, spread over all, lie outside of [0, 1].

        Others that do are unreadable images.
        """
        places = np.linspace(0, self.num_images - 1, _SAMPLE).astype(np.int64)
        for index in np.unique(places):
            try:
                pixels = self._unchecked(self.read(index)).numpy()
            except (tf.errors.OpError, UnicodeDecodeError):  # Messages quote bytes.
                continue  # An unreadable image.
            if pixels.size:
                name = self.describe(index)
                source_lib.check_floats(pixels.min(), pixels.max(), name)

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

    @property
    def has_names(self):
        return self._names is not None

    def places(self):
        """The files' paths, without links, and where in them the records begin."""
        paths = [p if "://" in p else os.path.realpath(p) for p in self._paths]
        return [f"{paths[n]} {at}" for n, at in zip(self._shard_of, self._starts)]

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
            `image/class/label`; see `record_files`.
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
    return _open_pattern(spec, channels, bit_depth, verify)


def read_index(path):
    """The content of an index, checked.

    It is JSON: `format`, `num_images`, `channels`, `dtype`, `pixels` (bool),
    `class_names` (list or null), `images` (what the source was called), `origin`
    (fingerprint of the source and how it was written), and `shards`, a list of objects
    with `file`, `count`, `bytes`, `sha256`, `lengths` (bytes of each record; a record
    starts where those before it, 16 bytes of frame each, end), `names`, `labels` (-1
    where unknown; a list of 1, 0 and -1 for any number of classes; or null) and
    `skipped` (unreadable images that were left out).

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
        checks.one_of(index, "dtype", source_lib.MAX_VALUE)
        checks.whole(index, "channels")
        checks.one_of(index, "pixels", (True, False))
        for shard in index["shards"]:
            lists = [shard["lengths"], shard["names"], shard["labels"]]
            if any(len(x) != shard["count"] for x in lists if x is not None):
                raise ValueError(f"lists of other lengths than {shard['count']}")
            if os.path.basename(shard["file"]) != shard["file"]:
                raise ValueError(f"the file {shard['file']!r} in another folder")
        labels = [label for s in index["shards"] for label in s["labels"] or ()]
        _check_index_labels(labels, index["class_names"])
        if index["num_images"] != sum(s["count"] for s in index["shards"]):
            raise ValueError(f"num_images {index['num_images']}")
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
    names = [entry["names"] for entry in index["shards"]]
    dtype = index["dtype"]
    if not index["pixels"] and bit_depth == 16:
        dtype = "uint16"
    source = RecordSource(
        shards,
        name=f"tfrecord:{path}",
        channels=index["channels"]
        if index["pixels"]
        else channels or index["channels"],
        dtype=dtype,
        labels=_labels_of(index["shards"]),
        class_names=tuple(index["class_names"]) if index["class_names"] else None,
        names=None if None in names else [name for some in names for name in some],
        pixels=index["pixels"],
        digest=digest.digest(),
    )
    if index["pixels"] and dtype == "float32":
        source.check_floats()
    return source


def _check_index_labels(labels, class_names):
    """Raises `ValueError` unless all are numbers of classes, or all rows of marks."""
    count = len(class_names) if class_names else 2**63
    several = bool(labels) and all(type(label) is list for label in labels)
    width = len(class_names or labels[0]) if several else None
    for label in labels:
        if several:
            known = all(type(mark) is int and -1 <= mark <= 1 for mark in label)
            right = known and len(label) == width
        else:
            right = type(label) is int and -1 <= label < count
        if not right:
            raise ValueError(f"label {label!r}")


def _labels_of(entries):
    """Labels of all shards; those of a shard that has none are unknown."""
    known = [entry["labels"] for entry in entries if entry["labels"]]
    if not known:
        return None
    first = known[0][0]
    unknown = [-1] * len(first) if isinstance(first, list) else -1
    labels = []
    for entry in entries:
        labels += entry["labels"] or [unknown] * entry["count"]
    return labels


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


def _open_pattern(spec, channels, bit_depth, verify):
    paths = record_files.matching(spec)
    shards = [Shard(path, record_files.lengths(path)) for path in paths]
    if verify:
        for path in paths:
            record_files.check_crcs(path)
    if not sum(len(shard.lengths) for shard in shards):
        raise ValueError(f"The files of tfrecord:{spec} hold no record.")
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(os.path.basename(shard.path).encode())
        digest.update(shard.lengths.astype("<i8").tobytes())
    source = RecordSource(
        shards,
        name=f"tfrecord:{spec}",
        channels=channels or 3,
        dtype="uint16" if bit_depth == 16 else "uint8",
        labels=None,
        class_names=None,
        digest=digest.digest(),
    )
    if record_files.check(source):
        source.labels = lambda: record_files.labels(source)
    return source

"""Writes TFRecord shards and their index, so that a stopped run can go on.

A shard gets its name when it is complete, and a note beside it (`….tfrecord.json`)
says what it holds. The index takes the notes' place when all shards are there.
"""

import json
import os

import numpy as np
import tensorflow as tf

from tfssl import files
from tfssl.data.sources import record_files, records

_MAGIC = {
    b"\xff\xd8\xff": b"jpeg",
    b"\x89PN": b"png",
    b"GIF": b"gif",
    b"BM": b"bmp",
    b"RIFF": b"webp",
}


def example(image, *, height, width, name, label=None, class_name=None):
    """A serialised `tf.train.Example` of one image.

    Args:
        image: bytes of an image file, or an array `(height, width, channels)`.
        height: int, rows.
        width: int, columns.
        name: str, what the source calls the image.
        label: int, or a list of marks (see `Source.label_sets`), or None where it is
            not known.
        class_name: str or None.
    """
    values = {
        record_files.HEIGHT: int(height),
        record_files.WIDTH: int(width),
        record_files.FILENAME: name.encode(),
    }
    if isinstance(image, bytes):
        values[record_files.ENCODED] = image
        kinds = [kind for magic, kind in _MAGIC.items() if image.startswith(magic)]
        values["image/format"] = kinds[0] if kinds else b""
    else:
        little = image.astype(image.dtype.newbyteorder("<"))
        values[record_files.PIXELS] = np.ascontiguousarray(little).tobytes()
    if isinstance(label, list):
        values[record_files.MARKS] = label
    elif label is not None:
        values[record_files.LABEL] = int(label)
    if class_name is not None:
        values["image/class/text"] = class_name.encode()
    feature = {}
    for key, value in values.items():
        if isinstance(value, bytes):
            kind = {"bytes_list": tf.train.BytesList(value=[value])}
        else:
            value = value if isinstance(value, list) else [value]
            kind = {"int64_list": tf.train.Int64List(value=value)}
        feature[key] = tf.train.Feature(**kind)
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


class ShardWriter:
    """Writes one shard under a passing name, until `finish`.

    Args:
        path: of the shard.
    """

    def __init__(self, path):
        self._path = path
        self._part = f"{path}.part"
        self._writer = tf.io.TFRecordWriter(self._part)
        self._lengths, self._names, self._labels = [], [], []

    def write(self, record, name, label):
        """Appends a record; `label` is as in `example`."""
        self._writer.write(record)
        self._lengths.append(len(record))
        self._names.append(name)
        self._labels.append(-1 if label is None else label)

    def finish(self, *, labelled, skipped, origin):
        """Gives the shard its name and writes the note beside it.

        Args:
            labelled: whether the source has labels.
            skipped: list of what was left out.
            origin: dict, what the shard was made from; see `done`.

        Returns:
            The note, which is also the shard's entry in the index.
        """
        self._writer.close()
        note = {
            "file": os.path.basename(self._path),
            "count": len(self._lengths),
            "bytes": sum(self._lengths) + record_files.FRAME * len(self._lengths),
            "sha256": records.sha256(self._part),
            "lengths": self._lengths,
            "names": self._names,
            "labels": self._labels if labelled else None,
            "skipped": skipped,
            "origin": origin,
        }
        tf.io.gfile.rename(self._part, self._path, overwrite=True)
        files.write_text(_note_path(self._path), _compact(note))
        return note

    def abandon(self):
        """Removes what was written."""
        self._writer.close()
        if tf.io.gfile.exists(self._part):
            tf.io.gfile.remove(self._part)


def _note_path(path):
    return f"{path}.json"


def _compact(value):
    return json.dumps(value, separators=(",", ":")) + "\n"


def shard_paths(folder, name, count):
    """Paths `folder/NAME-00000-of-00016.tfrecord` and so on."""
    return [
        os.path.join(folder, f"{name}-{i:05d}-of-{count:05d}.tfrecord")
        for i in range(count)
    ]


def done(paths, index_path, origin):
    """Notes of the shards that are finished and unchanged; None for the others.

    Args:
        paths: of all shards.
        index_path: of the index.
        origin: JSON-able dict: the images and the options of this run.

    Raises:
        ValueError: if what is there was made from something else.
    """
    index = None
    if tf.io.gfile.exists(index_path):
        index = records.read_index(index_path)
        if index.get("origin") != origin:
            raise _other_origin(index_path, index.get("origin"), origin)
    known = {entry["file"]: entry for entry in index["shards"]} if index else {}
    notes = []
    for path in paths:
        note = known.get(os.path.basename(path))
        note = note or files.read_json_if_whole(_note_path(path))
        if note is not None and note.get("origin", origin) != origin:
            raise _other_origin(path, note["origin"], origin)
        complete = note is not None and tf.io.gfile.exists(path)
        same = complete and records.sha256(path) == note["sha256"]
        notes.append(note if same else None)
    return notes


def _other_origin(path, found, wanted):
    keys = [key for key in wanted if (found or {}).get(key) != wanted[key]]
    return ValueError(
        f"{path} holds records of other images or options ({', '.join(keys)} differ); "
        "choose another folder or name, or delete them."
    )


def write_index(index_path, paths, notes, *, source, pixels, origin):
    """Writes the index of complete shards and removes their notes."""
    shards = [
        {key: value for key, value in note.items() if key != "origin"} for note in notes
    ]
    index = {
        "format": records.FORMAT,
        "num_images": sum(shard["count"] for shard in shards),
        "channels": source.channels,
        "dtype": source.dtype,
        "pixels": pixels,
        "class_names": source.class_names,
        "images": source.name,
        "origin": origin,
        "shards": shards,
    }
    files.write_text(index_path, _compact(index))
    for path in paths:
        if tf.io.gfile.exists(_note_path(path)):
            tf.io.gfile.remove(_note_path(path))
    return index

"""Any source in, sharded TFRecords and their index out."""

import os
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from tfssl import data as data_lib
from tfssl import files, locks
from tfssl import progress as progress_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import passes, running
from tfssl.data.sources import record_writer, records
from tfssl.tasks import arguments, groups
from tfssl.tasks.arguments import FileName, Path, Range


@arguments.task
def make_tfrecords(
    data: Any,
    out: Path,
    *,
    images: groups.Images,
    name: Annotated[str, FileName()] = "images",
    num_shards: groups.Count = 16,
    pixels: bool = False,
    max_side: groups.CountOrNone = None,
    quality: Annotated[int, Range(1, 100)] = 95,
    max_bad_fraction: groups.Share = 0.01,
    verbose: groups.Verbose = 1,
):
    """Writes images as TFRecord shards, `out/NAME-00000-of-00016.tfrecord`, ….

    Every image is decoded once, so that none that training cannot read gets in. By
    default the bytes of the image files are kept as they are; images that are no
    files (arrays) are written as raw pixels. A run that was stopped goes on: shards
    that are finished and have the right checksum stay.

    Args:
        data: where the images are, given as for `tfssl.pretrain`.
        out: folder to write to, local or any that `tf.io.gfile` writes.
        images: see `groups.Images`.
        name: name of the records; the index is `out/NAME.json`.
        num_shards: number of files.
        pixels: write decoded pixels: larger files, no decoding in training.
        max_side: make images with a longer side smaller. With an antialiasing bilinear
            filter, never larger. With `pixels` so are arrays and files of any depth;
            without, they are encoded anew as JPEG, and all others keep their bytes.
        quality: quality of that JPEG.
        max_bad_fraction: share of unreadable images that stops the run.
        verbose: 0 silent, 1 progress.

    Returns:
        Path of the index, to be opened as `"tfrecord:PATH"`.

    Raises:
        ValueError: for options that do not fit the images, for too many unreadable
            images, or if `out` holds records of something else.
    """
    source = images.open(data)
    pixels = pixels or not source.holds_files
    _check(source, num_shards, pixels, max_side)
    origin = {
        "fingerprint": source.fingerprint(),
        "num_shards": num_shards,
        "channels": source.channels,
        "dtype": source.dtype,
        "pixels": pixels,
        "max_side": max_side,
        "quality": quality if max_side and not pixels else None,
    }
    paths = record_writer.shard_paths(out, name, num_shards)
    index_path = os.path.join(out, f"{name}.json")
    with locks.hold(out, name):
        notes = record_writer.done(paths, index_path, origin)
        bad_files = bad_files_lib.BadFiles(max_bad_fraction)
        for note in notes:
            for skipped in note["skipped"] if note else ():
                bad_files.add({skipped: ""}, source)
        if source.encoded and None in notes:
            bad_files_lib.check(source, bad_files, source.decode)
        limits = np.linspace(0, source.num_images, num_shards + 1).astype(np.int64)
        with progress_lib.bar(
            total=source.num_images, wanted=bool(verbose), unit="image", desc=name
        ) as bar:
            found = _images(source, limits, notes, pixels, max_side, quality)
            writer = _Shards(source, paths, limits, notes, origin, bad_files, bar)
            with bad_files_lib.explained(bad_files):
                writer.write(found)
        record_writer.write_index(
            index_path, paths, notes, source=source, pixels=pixels, origin=origin
        )
    return index_path


def _check(source, num_shards, pixels, max_side):
    if not 1 <= num_shards <= source.num_images:
        raise ValueError(
            f"num_shards={num_shards} received for {source.num_images} images, "
            "expected 1 to as many."
        )
    if max_side is None:
        return
    if not pixels and (source.dtype != "uint8" or source.channels not in (1, 3)):
        raise ValueError(
            f"max_side={max_side} received for {source.channels} channels, "
            f"{source.dtype}, but it encodes JPEG, of 1 or 3 channels of 8 bits; "
            "use pixels=True, or leave it out."
        )


@running.as_written
def _images(source, limits, notes, pixels, max_side, quality):
    """`(index, image, height, width)` of the readable images of missing shards."""

    def make(index, raw):
        decoded = source.decode(raw)
        shape = tf.shape(decoded)
        image = decoded if pixels else source.file_of(raw)
        if max_side:
            image, shape = tf.cond(
                tf.reduce_max(shape[:2]) > max_side,
                lambda: _smaller(decoded, max_side, None if pixels else quality),
                lambda: (image, shape),
            )
        return index, image, shape[0], shape[1]

    missing = np.concatenate(
        [
            np.arange(low, high)
            for low, high, note in zip(limits, limits[1:], notes)
            if note is None
        ]
        or [np.zeros(0)]
    ).astype(np.int64)
    if source.random_access:
        indices = tf.data.Dataset.from_tensor_slices(missing)
        dataset = indices.map(
            lambda i: make(i, source.read(i)), num_parallel_calls=tf.data.AUTOTUNE
        )
    else:
        stream = passes.renumbered(source, missing, missing)
        dataset = stream.map(make, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    if source.encoded:
        dataset = dataset.ignore_errors()
    return dataset.with_options(options).as_numpy_iterator()


def _smaller(image, max_side, quality):
    """`(image, shape)`: a JPEG file, or pixels of the same dtype for `quality` None."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.round(sides * (max_side / tf.reduce_max(sides)))
    sides = tf.maximum(tf.cast(sides, tf.int32), 1)
    small = tf.image.resize(image, sides, antialias=True)
    if image.dtype.is_integer:
        small = tf.round(tf.clip_by_value(small, 0.0, float(image.dtype.max)))
    small = tf.cast(small, image.dtype)
    stored = small if quality is None else tf.io.encode_jpeg(small, quality=quality)
    return stored, tf.shape(small)


class _Shards:
    """Cuts a sequence of images into the shards that are missing."""

    def __init__(self, source, paths, limits, notes, origin, bad_files, bar):
        self._source = source
        self._paths = paths
        self._limits = limits
        self._notes = notes
        self._origin = origin
        self._bad_files = bad_files
        self._bar = bar

    def write(self, images):
        """Writes the shards, and puts their notes into the list."""
        image = next(images, None)
        for number, path in enumerate(self._paths):
            low, high = self._limits[number], self._limits[number + 1]
            if self._notes[number] is None:
                writer = record_writer.ShardWriter(path)
                try:
                    image = self._write_shard(writer, image, images, number, low, high)
                except BaseException:
                    writer.abandon()
                    raise
            self._bar.update(int(high) - self._bar.n)

    def _write_shard(self, writer, image, images, number, low, high):
        expected, skipped = low, []
        while image is not None and image[0] < high:
            index = int(image[0])
            passes.check(index, self._source)
            skipped += self._skip(range(expected, index))
            writer.write(*self._record(*image))
            self._bar.update(index + 1 - self._bar.n)
            expected = index + 1
            image = next(images, None)
        skipped += self._skip(range(expected, high))
        self._notes[number] = writer.finish(
            labelled=self._source.known_labels is not None,
            skipped=skipped,
            origin=self._origin,
        )
        return image

    def _skip(self, indices):
        reasons = self._bad_files.reasons(map(int, indices), self._source)
        self._bad_files.add(reasons, self._source)
        return self._bad_files.listed[-len(reasons) :] if reasons else []

    def _record(self, index, image, height, width):
        source = self._source
        name, label = _short_name(source, int(index)), None
        names = source.class_names
        if source.label_sets is not None:
            label, names = source.label_sets[index].tolist(), None
        elif source.labels is not None and source.labels[index] >= 0:
            label = int(source.labels[index])
        record = record_writer.example(
            image,
            height=height,
            width=width,
            name=name,
            label=label,
            class_name=names[label] if names and label is not None else None,
        )
        return record, name, label


def _short_name(source, index):
    """What an image is called, without the folder that all of them lie in."""
    name = source.describe(index)
    if isinstance(source, data_lib.sources.FileSource):
        for folder in (source.name, os.path.dirname(source.name)):
            if folder and name.startswith(f"{folder}{os.sep}"):
                return name[len(folder) + 1 :]
    return name


def verify(index):
    """Checks every shard of an index against its checksum.

    Args:
        index: path of the index, or a pattern of record files.

    Returns:
        The source.

    Raises:
        ValueError: naming the first file that is missing, cut short or changed.
    """
    return records.open_records(files.expanded(index), verify=True)

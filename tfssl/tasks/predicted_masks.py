"""What a segmenter says of images: a mask for each, and PNG files of them."""

import contextlib
import csv
import dataclasses
import io
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import checks, files, internals, locks, progress
from tfssl import data as data_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import sources
from tfssl.data.sources import image_headers
from tfssl.evaluation import segmentation
from tfssl.tasks import predictions

LIST = "masks.csv"  # Which mask is which image's, in the folder of masks.
_HEADER = ["image", "mask"]
_ENDING = ".png"
# Where masks are written until all are there: in their folder, since its parent may be
# another disk, or nobody's to write in.
_PART = ".masks.part"
# Of files that a classifier's predictions or another task may have been given.
_OF_FILES = (".csv", ".json", ".jsonl", ".npz", _ENDING)


@dataclasses.dataclass(frozen=True)
class Mask:
    """What a segmenter says of one image.

    Attributes:
        image: name of the image, of a file its path.
        mask: uint8 `(height, width)` of the image, the number of each pixel's class.
        class_names: tuple of texts, by number.
    """

    image: str
    mask: np.ndarray
    class_names: tuple

    def __str__(self):
        shares = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        shares = shares / self.mask.size
        order = [i for i in np.argsort(-shares, kind="stable") if shares[i]]
        told = ", ".join(
            f"{self.class_names[i]} {100 * shares[i]:.3g} %" for i in order
        )
        return f"{self.image}: {told}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Masks(predictions.OfImages):
    """What a segmenter says of images: a sequence of `Mask`, one per image.

    Attributes:
        images: tuple of the images' names, in the order of their source.
        positions: int64 `(n,)`, their places in it.
        masks: list of the masks as PNG files: their paths, or, since whole masks take a
            byte per pixel, their content.
        class_names: tuple of names, by number.
        unreadable: list of the images that are left out, with the reason where it is
            known.
    """

    images: tuple
    positions: np.ndarray
    masks: list
    class_names: tuple
    unreadable: list = dataclasses.field(default_factory=list)

    classes_are = "classes of pixels"

    def row(self, place):
        """The `Mask` of an image."""
        encoded = self.masks[place]
        if isinstance(encoded, str):
            encoded = tf.io.read_file(encoded)
        mask = tf.io.decode_png(encoded, 1)[..., 0].numpy()
        return Mask(self.images[place], mask, self.class_names)


def of(segmenter, source, out, *, batch_size, max_bad_fraction, verbose):
    """The `Masks` of images, in the size of each.

    An image is resized as a whole to what the segmenter takes, and its probabilities
    back to its own size.

    Args:
        segmenter: `formats.Encoder` of a `models.Segmenter`.
        source: the images.
        out: folder for the masks, PNG files of one channel whose values are the
            numbers of classes, and for `masks.csv`, or None; see `check_out`. What it
            holds is replaced at the end, and stays as it is if anything fails before.
        batch_size: int, at most; see `segmentation.images_at_once`.
        max_bad_fraction: float, share of unreadable images that stops it.
        verbose: 0 silent, 1 progress.

    Raises:
        ValueError: for images that are read in sequence and may be of any size, for
            those that cannot be read, a segmenter that has diverged, or a folder that
            another process writes to.
    """
    network = segmenter.network
    batch_size = segmentation.images_at_once(
        batch_size, network.image_size, len(network.class_names)
    )
    size_of = _size_of(source)
    bad_files = data_lib.pipeline.BadFiles(max_bad_fraction)
    dataset = data_lib.labeled(
        source,
        dataclasses.replace(segmenter.preprocessing, crop=1.0),
        batch_size=batch_size,
        bad_files=bad_files,
    )
    run = internals.function(network.probabilities, reduce_retracing=True)
    positions, masks = [], []
    names = _file_names(source)
    writing = contextlib.nullcontext() if out is None else _replaced(out)
    with bad_files_lib.explained(bad_files), writing as part:
        for batch in progress.bar(
            dataset,
            wanted=bool(verbose),
            total=-(-source.num_images // batch_size),
            desc="masks",
            unit="batch",
            leave=False,
        ):
            real = batch["mask"].numpy()
            said = run(batch["image"]).numpy()[real]
            predictions.check_finite(said, "segmenter")
            for index, chances in zip(batch["index"].numpy()[real].tolist(), said):
                mask = _mask(chances, size_of(index))
                encoded = tf.io.encode_png(mask[..., np.newaxis]).numpy()
                positions.append(index)
                masks.append(encoded)
                if out is not None:
                    files.write_bytes(os.path.join(part, names(index)), encoded)
                    masks[-1] = os.path.join(out, names(index))
        found = Masks(
            images=tuple(source.describe(index) for index in positions),
            positions=np.array(positions, np.int64),
            masks=masks,
            class_names=network.class_names,
            unreadable=bad_files.listed,
        )
        if out is not None:
            files.write_bytes(os.path.join(part, LIST), _list(found))
    return found


def _mask(chances, size):
    """The likeliest class of each pixel of an image, the first of equal ones.

    Args:
        chances: float32 `(h, w, classes)`.
        size: `(height, width)` of the image, which may be so large that its classes
            must be looked at in parts.

    Returns:
        uint8 `(height, width)`.
    """
    height, width = map(int, size)
    mask, best = np.zeros((height, width), np.uint8), np.float32(-np.inf)
    step = max(1, segmentation.NUMBERS // (height * width))
    for first in range(0, chances.shape[-1], step):
        part = chances[..., first : first + step]
        resized = tf.image.resize(part, (height, width), antialias=True)
        largest = tf.reduce_max(resized, axis=-1).numpy()
        said = tf.argmax(resized, axis=-1, output_type=tf.int32).numpy() + first
        mask = np.where(largest > best, said, mask).astype(np.uint8)
        best = np.maximum(largest, best)
    return mask


def check_out(out, data, source):
    """Raises `ValueError` for a path that is none of a folder for masks.

    It is no file and none by its ending, is apart from the images, and holds nothing
    but what an earlier prediction wrote. What is there stays as it is.

    Args:
        out: the path.
        data: where the images are, as the user gave it.
        source: the `Source` of them.
    """
    there = tf.io.gfile.exists(out)
    if there and not tf.io.gfile.isdir(out):
        raise checks.refused(
            "out", out, "a folder for the masks of a segmenter, but it is a file"
        )
    if not there and out.lower().endswith(_OF_FILES):
        raise checks.refused(
            "out",
            out,
            "a folder for the masks of a segmenter; leave the ending of a file away",
        )
    _check_apart(out, data, source)
    foreign = sorted(_entries(out) - _ours(out))
    if foreign:
        raise checks.refused(
            "out",
            out,
            "a new or empty folder or that of earlier masks, but it holds "
            f"{len(foreign)} file(s) or folder(s) that are in no {LIST} of it, such as "
            f"{foreign[0]!r}; name another folder",
        )
    files.check_writable(os.path.join(out, LIST))
    if not there:
        _remove_if_empty(out)  # The check has made it.


def _check_apart(out, data, source):
    """Raises `ValueError` where masks would lie among images."""
    if not isinstance(source, sources.FileSource):
        return
    place = files.real(out)
    walked = None
    if isinstance(data, str | os.PathLike):
        path = files.expanded(os.fspath(data).removeprefix("folder:"))
        walked = path if _is_folder(path) else None
    folders = {
        os.path.dirname(source.describe(index)) for index in range(source.num_images)
    }
    for folder in ([] if walked is None else [walked]) + sorted(folders):
        real = files.real(folder)
        if real == place:
            how = "which it is"
        elif files.inside(real, place):
            how = "which it contains"
        # Of a list of files none but these are read, now and the next time.
        elif folder == walked and files.inside(place, real):
            how = "in which it lies"
        else:
            continue
        raise checks.refused(
            "out",
            out,
            "a folder for masks apart from that of the images, "
            f"{folder or os.curdir!r}, {how}; name another folder",
        )


def _is_folder(path):
    if "://" in path:
        return tf.io.gfile.isdir(path)
    return os.path.isdir(path)


def _entries(folder):
    """Set of the names in a folder, empty where it is not there."""
    if "://" not in folder:  # Names need not be UTF-8, as TensorFlow's.
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    if not tf.io.gfile.isdir(folder):
        return set()
    return {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}


def _ours(out):
    """Set of the names that a folder of masks may hold.

    They are those of its list, and of one that was on its way when a move was cut off.
    """
    return _listed(out) | _listed(os.path.join(out, _PART)) | {_PART, locks.FILE}


def _listed(folder):
    """Set of the masks that a folder's list names, and the list; empty without one."""
    path = os.path.join(folder, LIST)
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        return set()
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        text = io.StringIO(content.decode(), newline="")
        header, *rows = csv.reader(text, strict=True)
    except (ValueError, csv.Error):  # No text, no line, no CSV.
        return set()
    if header != _HEADER or any(len(row) != len(_HEADER) for row in rows):
        return set()
    return {LIST} | {name for _, name in rows if name.endswith(_ENDING)}


@contextlib.contextmanager
def _replaced(out):
    """Gives a folder to write to, whose files then take the place of `out`'s.

    No other process writes there meanwhile. If it fails before, `out` is as it was.
    """
    part = os.path.join(out, _PART)
    with locks.hold(out):
        # Masks whose move was cut off are known as ours by this folder's list only.
        for name in (_entries(out) & _listed(part)) - _listed(out):
            tf.io.gfile.remove(os.path.join(out, name))
        _remove(part)
        try:
            tf.io.gfile.makedirs(part)
            yield part
        except BaseException:
            try:
                _remove(part)
            except files.STORAGE_ERRORS:
                logging.warning("%s could not be removed", part)
            raise
        _move(part, out)


def _move(part, out):
    """Moves masks and, last, their list; removes the masks that it does not name."""
    masks = _entries(part) - {LIST}
    for name in sorted(masks):
        _rename(part, out, name)
    for name in (_listed(out) & _entries(out)) - masks - {LIST}:
        tf.io.gfile.remove(os.path.join(out, name))
    _rename(part, out, LIST)
    _remove(part)


def _rename(part, out, name):
    old, new = os.path.join(part, name), os.path.join(out, name)
    tf.io.gfile.rename(old, new, overwrite=True)


def _remove(folder):
    if tf.io.gfile.isdir(folder):
        tf.io.gfile.rmtree(folder)


def _remove_if_empty(folder):
    if tf.io.gfile.isdir(folder) and not _entries(folder):
        tf.io.gfile.rmtree(folder)


def _size_of(source):
    """A function: the number of an image -> `(height, width)`."""
    if source.image_size is not None:
        return lambda index: source.image_size
    if not source.random_access:
        raise ValueError(
            f"The images of {source.name} are read in sequence, and may be of any "
            "size, which a mask is to have; give files, or arrays."
        )

    def size(index):
        with tf.device(files.cpu_here()):
            raw = source.read(tf.constant(index, tf.int64))

            def decoded():
                return tf.shape(source.decode(raw))[:2]

            if not source.holds_files:
                return decoded()
            # Without the pixels, which were decoded once already.
            return image_headers.size(source.file_of(raw), decoded)

    return size


def _file_names(source):
    """A function: the number of an image -> the name of its mask's file."""
    if not source.has_names:
        return lambda index: f"{index:06d}{_ENDING}"

    def stem(index):
        return os.path.splitext(os.path.basename(source.describe(index)))[0]

    stems = [stem(index) for index in range(source.num_images)]
    if len(set(stems)) == len(stems):
        return lambda index: f"{stems[index]}{_ENDING}"
    # Files of one name in several folders.
    return lambda index: f"{stems[index]}_{index:06d}{_ENDING}"


def _list(found):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for image, path in zip(found.images, found.masks):
        writer.writerow([image, os.path.basename(path)])
    return text.getvalue().encode()

"""What a segmenter says of images: a mask for each, and PNG files of them."""

import csv
import dataclasses
import io
import os

import numpy as np
import tensorflow as tf

from tfssl import checks, files, internals, progress
from tfssl import data as data_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.tasks import predictions

LIST = "masks.csv"  # Which mask is which image's, in the folder of masks.


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
        masks: list of the masks, or of the paths of their files.
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
        mask = self.masks[place]
        if isinstance(mask, str):
            encoded = tf.io.read_file(mask)
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
            numbers of classes, and for `masks.csv`, or None.
        batch_size: int.
        max_bad_fraction: float, share of unreadable images that stops it.
        verbose: 0 silent, 1 progress.

    Raises:
        ValueError: for images that are read in sequence and may be of any size, for
            those that cannot be read, or a segmenter that has diverged.
    """
    network = segmenter.network
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
    with bad_files_lib.explained(bad_files):
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
                resized = tf.image.resize(chances, size_of(index), antialias=True)
                mask = tf.cast(tf.argmax(resized, axis=-1), tf.uint8)
                positions.append(index)
                masks.append(mask.numpy())
                if out is not None:
                    path = os.path.join(out, names(index))
                    encoded = tf.io.encode_png(mask[..., tf.newaxis])
                    files.write_bytes(path, encoded.numpy())
                    masks[-1] = path
    found = Masks(
        images=tuple(source.describe(index) for index in positions),
        positions=np.array(positions, np.int64),
        masks=masks,
        class_names=network.class_names,
        unreadable=bad_files.listed,
    )
    if out is not None:
        files.write_bytes(os.path.join(out, LIST), _list(found))
    return found


def check_out(out):
    """Raises `ValueError` for a path that is none of a folder for masks."""
    if os.path.splitext(out)[1] or (
        tf.io.gfile.exists(out) and not tf.io.gfile.isdir(out)
    ):
        raise checks.refused("out", out, "a folder for the masks of a segmenter")
    files.check_writable(os.path.join(out, LIST))


def _size_of(source):
    """A function: the number of an image -> `(height, width)`."""
    if source.image_size is not None:
        return lambda index: source.image_size
    if not source.random_access:
        raise ValueError(
            f"The images of {source.name} are read in sequence, and may be of any "
            "size, which a mask is to have; give files, or arrays."
        )

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)])
    def size(index):
        return tf.shape(source.decode(source.read(index)))[:2]

    return lambda index: size(tf.constant(index, tf.int64))


def _file_names(source):
    """A function: the number of an image -> the name of its mask's file."""
    if not source.has_names:
        return lambda index: f"{index:06d}.png"

    def stem(index):
        return os.path.splitext(os.path.basename(source.describe(index)))[0]

    stems = [stem(index) for index in range(source.num_images)]
    if len(set(stems)) == len(stems):
        return lambda index: f"{stems[index]}.png"
    # Files of one name in several folders.
    return lambda index: f"{stems[index]}_{index:06d}.png"


def _list(found):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "mask"])
    for image, path in zip(found.images, found.masks):
        writer.writerow([image, os.path.basename(path)])
    return text.getvalue().encode()

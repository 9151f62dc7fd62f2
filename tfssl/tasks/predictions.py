"""What a classifier says of images, as rows to go through and as files."""

import collections.abc
import csv
import dataclasses
import io
import json

import numpy as np

from tfssl import checks, files, processor
from tfssl.tasks import npz


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        image: name of the image, of a file its path.
        classes: tuple of names of classes, the most probable first.
        probabilities: tuple of their probabilities.
    """

    image: str
    classes: tuple
    probabilities: tuple

    def __str__(self):
        found = zip(self.classes, self.probabilities)
        told = ", ".join(f"{name} {value:.3g}" for name, value in found)
        return f"{self.image}: {told or 'no class'}"


class OfImages(collections.abc.Sequence):
    """A sequence with a row for each image.

    A subclass has `images` and `class_names`, and `row(place)`.
    """

    classes_are = "classes"

    def __repr__(self):
        of = f"{len(self)} images, {len(self.class_names)} {self.classes_are}"
        return f"<{type(self).__name__}: {of}>"

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.row(place)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictions(OfImages):
    """What a classifier says of images: a sequence of `Prediction`, one per image.

    Attributes:
        images: tuple of the images' names, in the order of their source.
        positions: int64 `(n,)`, their places in it.
        probabilities: float32 `(n, classes)`, of every class. Those of an image add up
            to 1, or, of a multi-label classifier, each stands for itself.
        class_names: tuple of names, by column.
        unreadable: list of the images that are left out, with the reason where it is
            known.
        top: int, the largest number of classes in a `Prediction`; None is any.
        threshold: float, the smallest probability of a class in it.
    """

    images: tuple
    positions: np.ndarray
    probabilities: np.ndarray
    class_names: tuple
    unreadable: list = dataclasses.field(default_factory=list)
    top: int | None = None
    threshold: float = 0.0

    def row(self, place):
        """The `Prediction` of an image."""
        return Prediction(self.images[place], *self._chosen(self.probabilities[place]))

    def _chosen(self, row):
        """Names of classes and their probabilities, the most probable first."""
        least = self.threshold
        if self.top is not None and self.top < len(row):
            least = max(least, np.partition(row, -self.top)[-self.top])
        chosen = np.flatnonzero(row >= least)
        chosen = chosen[np.argsort(-row[chosen], kind="stable")][: self.top]
        return (
            tuple(self.class_names[i] for i in chosen),
            tuple(row[chosen].tolist()),
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NamedPredictions(OfImages):
    """The rows of `Predictions` without the probabilities of all other classes.

    Attributes:
        images: see `Predictions`.
        positions: see `Predictions`.
        rows: list of `Prediction`.
        class_names: see `Predictions`.
        unreadable: see `Predictions`.
    """

    images: tuple
    positions: np.ndarray
    rows: list
    class_names: tuple
    unreadable: list = dataclasses.field(default_factory=list)

    def row(self, place):
        """The `Prediction` of an image."""
        return self.rows[place]


class Gathered:
    """Predictions that come some thousand at a time, and what they make together.

    Args:
        source: the images.
        class_names: see `Predictions`.
        top: see `Predictions`.
        threshold: see `Predictions`.
        whole: whether the probabilities of all classes are held.

    Raises:
        ValueError: if these take more than the free memory.
    """

    def __init__(self, source, class_names, top, threshold, *, whole):
        self._source = source
        self._about = {"class_names": tuple(class_names)}
        self._rule = {"top": top, "threshold": threshold}
        self._names, self._positions, self._rows = [], [], []
        self._probabilities = None
        if whole:
            shape = source.num_images, len(class_names)
            processor.check_fits(
                f"The probabilities of {shape[0]:,} images and {shape[1]:,} classes",
                4 * shape[0] * shape[1],
                "give fewer images, or write .csv or .jsonl without holding them "
                "(tfssl-predict; in Python all_probabilities=False)",
            )
            self._probabilities = np.empty(shape, np.float32)

    def add(self, block):
        """Takes `features.Features` whose values are probabilities; gives their rows.

        Args:
            block: of the images that follow.

        Returns:
            A sequence of `Prediction`.
        """
        names = [self._source.describe(int(i)) for i in block.index]
        rows = Predictions(
            tuple(names), block.index, block.values, **self._about, **self._rule
        )
        if self._probabilities is None:
            rows = list(rows)
            self._rows += rows
        else:
            count = len(self._names)
            self._probabilities[count : count + len(names)] = block.values
        self._names += names
        self._positions.append(block.index)
        return rows

    def finished(self, unreadable):
        """`Predictions` of all images, or `NamedPredictions`.

        Args:
            unreadable: see `Predictions`.
        """
        found = self._about | {
            "images": tuple(self._names),
            "positions": np.concatenate(self._positions),
            "unreadable": unreadable,
        }
        if self._probabilities is None:
            return NamedPredictions(rows=self._rows, **found)
        probabilities = self._probabilities[: len(self._names)]
        return Predictions(probabilities=probabilities, **found, **self._rule)


def check_finite(found, what):
    """Raises `ValueError` where a network, a `what`, says NaN or infinity of images."""
    bad = np.count_nonzero(~np.isfinite(found).all(axis=tuple(range(1, found.ndim))))
    if bad:
        raise ValueError(
            f"The {what} gives NaN or infinity for {bad} of {len(found)} images, so "
            "its training has diverged; train it again with a lower learning rate."
        )


def check_out(path):
    """Raises `ValueError` unless the ending of a path says what to write there."""
    if not path.endswith(tuple(_WRITERS)):
        raise checks.refused("out", path, f"a file that ends in {', '.join(_WRITERS)}")
    files.check_writable(path)


def comes_in_parts(path):
    """Whether a file of this ending holds rows only, which `write` takes in parts."""
    return not path.endswith(".npz")


def write(path, parts):
    """Writes `Predictions`, in the format that the ending of the path says.

    `.csv` has a line for every class of a `Prediction`, `image,rank,class,probability`,
    and one with nothing after the image where it has no class. `.jsonl` has a line for
    every image, `.npz` the arrays `probabilities` `(n, classes)`, `names` (n,) and
    `class_names`.

    Args:
        path: as `check_out` takes it.
        parts: iterable of `OfImages` that together are the images, which is gone
            through while it is written; for `.npz` of one of `Predictions`.
    """
    (write_to,) = (some for end, some in _WRITERS.items() if path.endswith(end))
    write_to(path, parts)


def _in_parts(path, texts):
    def write_to(file):
        for text in texts:
            file.write(text.encode())

    files.write_in_pieces(path, write_to)


def _csv(path, parts):
    def texts():
        yield "image,rank,class,probability\n"
        for found in parts:
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            for row in found:
                writer.writerows(_lines(row))
            yield text.getvalue()

    _in_parts(path, texts())


def _lines(row):
    if not row.classes:
        yield row.image, "", "", ""
    for rank, (name, value) in enumerate(zip(row.classes, row.probabilities), 1):
        yield row.image, rank, name, f"{value:.6g}"


def _json_lines(path, parts):
    def line(row):
        shown = [float(f"{value:.6g}") for value in row.probabilities]
        return json.dumps(vars(row) | {"probabilities": shown}) + "\n"

    _in_parts(path, ("".join(map(line, found)) for found in parts))


def _npz(path, parts):
    (found,) = parts
    npz.write(
        path,
        probabilities=found.probabilities,
        names=np.array(found.images),
        class_names=np.array(found.class_names),
    )


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".npz": _npz}

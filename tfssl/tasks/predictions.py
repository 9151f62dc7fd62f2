"""What a classifier says of images, as rows to go through and as files."""

import collections.abc
import csv
import dataclasses
import io
import json

import numpy as np

from tfssl import checks, files
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
        row = self.probabilities[place]
        chosen = np.argsort(-row, kind="stable")[: self.top]
        chosen = chosen[row[chosen] >= self.threshold]
        return Prediction(
            self.images[place],
            tuple(self.class_names[i] for i in chosen),
            tuple(row[chosen].tolist()),
        )


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


def write(path, found):
    """Writes `Predictions`, in the format that the ending of the path says.

    `.csv` has a line for every class of a `Prediction`, `image,rank,class,probability`,
    and one with nothing after the image where it has no class. `.jsonl` has a line for
    every image, `.npz` the arrays `probabilities` `(n, classes)`, `names` (n,) and
    `class_names`.

    Args:
        path: as `check_out` takes it.
        found: `Predictions`.
    """
    (write_to,) = (some for end, some in _WRITERS.items() if path.endswith(end))
    write_to(path, found)


def _csv(path, found):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for row in found:
        if not row.classes:
            writer.writerow([row.image, "", "", ""])
        for rank, (name, value) in enumerate(zip(row.classes, row.probabilities), 1):
            writer.writerow([row.image, rank, name, f"{value:.6g}"])
    files.write_bytes(path, text.getvalue().encode())


def _json_lines(path, found):
    lines = []
    for row in found:
        shown = [float(f"{value:.6g}") for value in row.probabilities]
        lines.append(json.dumps(vars(row) | {"probabilities": shown}) + "\n")
    files.write_bytes(path, "".join(lines).encode())


def _npz(path, found):
    npz.write(
        path,
        probabilities=found.probabilities,
        names=np.array(found.images),
        class_names=np.array(found.class_names),
    )


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".npz": _npz}

"""Which images carry labels: class-balanced, reproducible, checked by hash."""

import collections
import dataclasses
import hashlib
import json
import os

import numpy as np

from tfssl import checks, files


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some images of a labelled source.

    Attributes:
        indices: int64, sorted positions in the source.
        sha256: hash of the indices and their labels: two runs that print the same
            used the same labels.
        description: how they were chosen.
    """

    indices: np.ndarray
    sha256: str
    description: str

    def save(self, path):
        """Writes the selection as JSON, atomically."""
        files.write_json(
            path,
            {
                "description": self.description,
                "sha256": self.sha256,
                "indices": self.indices.tolist(),
            },
        )


def labelled(source):
    """Positions of the images of a source that have a label, int64 `(count,)`.

    Args:
        source: a `Source`, or None, which has no images.
    """
    if source is None or source.labels is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(source.labels >= 0)


def select(labels, *, fraction=None, per_class=None, seed=0, index=None):
    """Chooses labelled images, the same share or number of every class.

    The images of a class are put in one order per seed and the first are taken:
    a smaller selection lies inside a larger one.

    Args:
        labels: int array `(num_images,)`; negative means unlabelled.
        fraction: in (0, 1], share of each class, at least one image of each.
        per_class: int >= 1, images of each class; instead of `fraction`.
        seed: int.
        index: int array `(num_images,)`, the positions in the source of these images,
            ascending, where they are a part of it. The selection's hash is of them, its
            `indices` are positions in `labels`.

    Returns:
        `Selection`.

    Raises:
        ValueError: without labels, for shares out of range, or if a class has
            fewer images than asked for.
    """
    if labels is None or len(labels) == 0 or not (np.asarray(labels) >= 0).any():
        raise ValueError(
            "A selection of labels needs labelled images, but there are no labels."
        )
    if (fraction is None) == (per_class is None):
        raise ValueError(
            f"fraction={fraction}, per_class={per_class} received, expected one of "
            "them."
        )
    given = {"fraction": fraction, "per_class": per_class}
    checks.within(given, checks.Above(0, 1), "fraction", optional=True)
    checks.whole(given, "per_class", optional=True)
    labels = np.asarray(labels)
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        count = per_class or max(1, round(fraction * len(rows)))
        if count > len(rows):
            raise ValueError(
                f"per_class={per_class} received, but class {label} has "
                f"{len(rows)} images."
            )
        # One generator per class: the order of a class depends on nothing else.
        rng = np.random.default_rng((seed, int(label)))
        chosen.append(rng.permutation(rows)[:count])
    amount = f"{per_class} per class" if per_class else f"{100 * fraction:g} %"
    told = f"{amount}, seed {seed}"
    return _selection(np.concatenate(chosen), labels, told, index)


def _selection(indices, labels, description, index=None):
    indices = np.sort(np.asarray(indices, np.int64))
    digest = hashlib.sha256()
    positions = indices if index is None else np.asarray(index)[indices]
    digest.update(positions.astype("<i8").tobytes())
    if labels is not None:
        digest.update(np.asarray(labels)[indices].astype("<i8").tobytes())
    return Selection(indices, digest.hexdigest(), description)


def load(path, source):
    """Reads a stored selection and checks that it means the same images.

    Raises:
        ValueError: if the source's images or labels are not those it was made for.
    """
    with open(path) as file:
        stored = json.load(file)
    indices = np.asarray(stored["indices"], np.int64)
    if len(indices) and indices.max() >= source.num_images:
        raise ValueError(
            f"{path} names image {indices.max()}, but {source.name} has "
            f"{source.num_images}; it was made for other data."
        )
    found = _selection(indices, source.labels, stored["description"])
    if found.sha256 != stored["sha256"]:
        raise ValueError(
            f"{path} was made for other data than {source.name}: SHA-256 "
            f"{found.sha256[:12]}… instead of {stored['sha256'][:12]}…; make it anew."
        )
    return found


def from_file_list(path, source):
    """A selection from a list of file names, one a line (SimCLR's 1 % and 10 %).

    Args:
        path: text file; folders in the names are ignored.
        source: a source of files.

    Raises:
        ValueError: for names that the source does not have, or has twice.
    """
    with open(path) as file:
        wanted = [os.path.basename(line.strip()) for line in file if line.strip()]
    names = [os.path.basename(source.describe(i)) for i in range(source.num_images)]
    rows = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise ValueError(
            f"{path} names {missing[0]!r} and {len(missing) - 1} more files that "
            f"{source.name} does not have."
        )
    twice = {n for n, count in collections.Counter(names).items() if count > 1}
    unclear = [name for name in wanted if name in twice]
    if unclear:
        raise ValueError(
            f"{path} names {unclear[0]!r}, but {source.name} has several files of "
            "that name; give them names of their own."
        )
    chosen = sorted({rows[name] for name in wanted})
    return _selection(chosen, source.labels, f"list {path}")


def balanced_order(labels, seed):
    """A shuffle of which every leading part has the classes in equal shares."""
    rank = np.zeros(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # A seed cannot be negative; -1 is the label of images without one.
        rng = np.random.default_rng((seed, int(label) % 2**32))
        rank[rng.permutation(rows)] = (np.arange(len(rows)) + rng.uniform()) / len(rows)
    return np.argsort(rank, kind="stable")

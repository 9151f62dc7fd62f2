"""Which images carry labels: class-balanced, reproducible, checked by hash."""

import collections
import dataclasses
import hashlib
import os

import numpy as np
import tensorflow as tf

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

    def save(self, path, images):
        """Writes the selection as JSON, atomically.

        Args:
            path: of the file.
            images: `identity()` of the source.
        """
        files.write_json(
            path,
            {
                "description": self.description,
                "sha256": self.sha256,
                "images": images,
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


def check_single(source, purpose):
    """Raises `ValueError` if the images of a source have any number of classes.

    Args:
        source: a `Source`, or None.
        purpose: what needs one class per image, first words of the message.
    """
    if source is not None and source.label_sets is not None:
        raise ValueError(
            f"{purpose} needs one class per image, but the images of {source.name} "
            "have any number of classes; leave it out, or open the data with "
            "labels='none'."
        )


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


def share(rows, marks, fraction, seed=0):
    """Chooses a share of images that have any number of classes each.

    Args:
        rows: int array, positions of the images to choose from.
        marks: int array `(num_images, classes)`, see `Source.label_sets`.
        fraction: in (0, 1]; at least one image is chosen. A smaller share lies inside a
            larger one.
        seed: int.

    Returns:
        `Selection`.
    """
    checks.within({"fraction": fraction}, checks.Above(0, 1), "fraction")
    count = max(1, round(fraction * len(rows)))
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    return _selection(chosen, marks, f"{100 * fraction:g} %, seed {seed}")


def _selection(indices, labels, description, index=None):
    indices = np.sort(np.asarray(indices, np.int64))
    digest = hashlib.sha256()
    positions = indices if index is None else np.asarray(index)[indices]
    digest.update(positions.astype("<i8").tobytes())
    if labels is not None:
        digest.update(np.asarray(labels)[indices].astype("<i8").tobytes())
    return Selection(indices, digest.hexdigest(), description)


def from_file(path, source):
    """The images that a file chooses: a saved selection, or a list of file names.

    Args:
        path: of a file by `Selection.save`, or of a text with a file name a line, as
            SimCLR's lists of 1 % and 10 % of ImageNet are.
        source: a labelled `Source`.

    Raises:
        ValueError: if there is no such file, it chooses no image, or images that the
            source does not have, or that have no label.
    """
    path = files.expanded(path)
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise ValueError(f"There is no list of labelled images at {path!r}.")
    with tf.io.gfile.GFile(path, "rb") as file:
        stored = file.read(1) == b"{"
    check_single(source, f"The list of labelled images {path}")
    found = load(path, source) if stored else from_file_list(path, source)
    if not len(found.indices):
        raise ValueError(f"{path} chooses no image; expected one file name a line.")
    labels = np.full(source.num_images, -1) if source.labels is None else source.labels
    bare = found.indices[labels[found.indices] < 0]
    if len(bare):
        raise ValueError(
            f"{path} chooses {source.describe(int(bare[0]))!r}{_and_more(bare)}, which "
            f"{source.name} has no label of; take the images without one out of the "
            "list, or open the data with labels."
        )
    return found


def load(path, source):
    """Reads a stored selection and checks that it means the same images.

    Raises:
        ValueError: if it is damaged, or the source's images or labels are not those it
            was made for.
    """
    stored = files.read_json(path)
    if stored is None:
        raise ValueError(f"There is no saved selection at {path!r}.")
    try:
        indices = np.asarray(stored["indices"])
        sha256, description = stored["sha256"], stored["description"]
        images = stored["images"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no saved selection of labelled images (no indices, sha256, "
            "description and images); give one from the labels/ of an evaluation, or a "
            "text with a file name a line."
        ) from error
    if len(indices) and (indices.dtype.kind != "i" or indices.min() < 0):
        raise ValueError(f"{path} is damaged: its indices are no positions of images.")
    if len(indices) and indices.max() >= source.num_images:
        raise ValueError(
            f"{path} names image {indices.max()}, but {source.name} has "
            f"{source.num_images}; it was made for other data."
        )
    found = _selection(indices, source.labels, description)
    for what, now, then, fix in (
        ("images", source.identity(), images, "open the images as there, hold-out too"),
        ("labels", found.sha256, sha256, "give the labels of that time"),
    ):
        if now != then:
            raise ValueError(
                f"{path} was made for other {what} than those of {source.name}: "
                f"SHA-256 {now[:12]}… instead of {str(then)[:12]}…; {fix}, or make it "
                "anew."
            )
    return found


def from_file_list(path, source):
    """A selection from a list of file names, one a line (SimCLR's 1 % and 10 %).

    Args:
        path: text file; folders in the names are ignored.
        source: a source of files.

    Raises:
        ValueError: for images without file names, and for names that the source does
            not have, or has twice.
    """
    if not source.has_names:
        raise ValueError(
            f"{path} names files, but the images of {source.name} have no names; give "
            "them as a folder or with a manifest, or give a saved selection."
        )
    with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
        content = file.read()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text (UTF-8); expected one file name a line."
        ) from error
    wanted = [os.path.basename(line.strip()) for line in lines if line.strip()]
    names = [os.path.basename(source.describe(i)) for i in range(source.num_images)]
    rows = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise ValueError(
            f"{path} names {missing[0]!r}{_and_more(missing)}, which {source.name} "
            "does not have; give the data that the list was made for."
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


def _and_more(names):
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def among(selection, labels, index):
    """The part of a selection that some images have, as rows of these.

    Args:
        selection: `Selection` of positions in a source.
        labels: int array `(num_images,)`, the labels of these images.
        index: int array `(num_images,)`, their positions in the source, ascending.

    Returns:
        `Selection`, as `select` gives it with `index`.
    """
    rows = np.flatnonzero(np.isin(index, selection.indices))
    return _selection(rows, labels, selection.description, index)


def held_out(labels, fraction, rng):
    """Which rows are held out to choose by.

    Args:
        labels: int `(n,)`.
        fraction: share of every class, in (0, 1).
        rng: NumPy generator.

    Returns:
        bool `(n,)`: of each class the share, 1 to count - 1 rows; no row at all where
        a class has a single one.
    """
    mask = np.zeros(len(labels), bool)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        return mask
    for label, of_class in zip(classes, counts):
        rows = np.flatnonzero(labels == label)
        count = int(np.clip(round(fraction * of_class), 1, of_class - 1))
        mask[rng.permutation(rows)[:count]] = True
    return mask


def balanced_order(labels, seed):
    """A shuffle of which every leading part has the classes in equal shares."""
    rank = np.zeros(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # A seed cannot be negative; -1 is the label of images without one.
        rng = np.random.default_rng((seed, int(label) % 2**32))
        rank[rng.permutation(rows)] = (np.arange(len(rows)) + rng.uniform()) / len(rows)
    return np.argsort(rank, kind="stable")

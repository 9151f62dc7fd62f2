"""A folder of image files, flat or nested."""

import os
import stat

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data import source as source_lib

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


class FileSource(source_lib.Source):
    """Image files, read when needed.

    The fingerprint covers the files' names (without folders), sizes and labels, not
    their content, which would take too long to read.

    Args:
        files: paths, in the order that numbers them.
        name: for logs.
        labels: int `(n,)` or None.
        class_names: tuple or None.
        channels: 1, 3 or 4.
        bit_depth: 8 or 16.
    """

    encoded = True

    def __init__(
        self, files, *, name, labels=None, class_names=None, channels=3, bit_depth=8
    ):
        source_lib.check_labels(labels, len(files), name)
        super().__init__(
            name,
            len(files),
            channels=channels,
            dtype="uint16" if bit_depth == 16 else "uint8",
            labels=labels,
            class_names=class_names,
        )
        self._files = list(files)
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._files)
        return tf.io.read_file(tf.gather(self._tensor, index))

    def describe(self, index):
        return self._files[int(index)]

    def _fingerprint(self, digest):
        for path in self._files:
            size = tf.io.gfile.stat(path).length
            digest.update(f"{os.path.basename(path)} {size}\n".encode())


def folder(path, *, labels="auto", channels=None, bit_depth=8, follow_links=False):
    """Image files of a folder, flat or nested, sorted by path.

    Files are taken by their ending; what they hold is found out when they are
    decoded. Hidden files are left out. Pipes, sockets and devices, for which a read
    could wait for ever, are counted, logged and left out. Links are followed inside the
    folder; those that lead out of it are counted, logged and left out.

    Args:
        path: the folder, local or any that `tf.io.gfile` lists.
        labels: `"folders"`: the first folder level is the class.
        channels: 1, 3 or 4; None is 3.
        bit_depth: 8 or 16.
        follow_links: take files and folders behind links that lead out of the
            folder too, for data sets that are made of links.

    Raises:
        ValueError: if there is no image file, or `labels="folders"` finds none.
    """
    files, outside = _image_files(path, follow_links)
    files = _regular(files, path)
    if outside:
        logging.warning(
            "%s: %d links that lead out of the folder were left out (%s); pass "
            "follow_links=True to take what is behind them.",
            path,
            len(outside),
            outside[0],
        )
    if not files:
        behind = f", only {len(outside)} links that lead out of it" if outside else ""
        raise ValueError(
            f"{path} holds no image file ({', '.join(EXTENSIONS)}){behind}; check the "
            f"path{' or pass follow_links=True' if outside else ''}."
        )
    names, ids = None, None
    if labels == "folders":
        names, ids = _classes(path, files)
    return FileSource(
        files,
        name=path,
        labels=ids,
        class_names=names,
        channels=channels or 3,
        bit_depth=bit_depth,
    )


def is_special(file):
    """Whether a local path leads to a pipe, a socket or a device; it is not opened."""
    try:
        mode = os.stat(file).st_mode
    except OSError:  # Missing files are found out when they are read.
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _regular(files, path):
    """The files without those that a read might wait for, which are logged."""
    local = "://" not in path
    special = {file for file in files if local and is_special(file)}
    if special:
        logging.warning(
            "%s: %d pipes, sockets or devices were left out (%s).",
            path,
            len(special),
            min(special),
        )
    return [file for file in files if file not in special]


def _classes(path, files):
    parts = [os.path.relpath(file, path).split(os.sep) for file in files]
    if any(len(p) == 1 for p in parts):
        raise ValueError(
            f"labels='folders' received, but {path} holds image files outside of "
            "class folders; use one folder per class, or labels='none'."
        )
    tops = [p[0] for p in parts]
    names = tuple(sorted(set(tops)))
    return names, np.searchsorted(names, tops)


def _image_files(path, follow_links):
    """Sorted image files of a folder, and the links that were left out."""
    local = "://" not in path
    root = os.path.realpath(path)
    found, outside = [], []
    # Of each folder, its real path last, after those of the folders it lies in: a
    # link to one of them is a walk without end.
    chains = {path: (root,)}

    def enter(directory, name):
        if name.startswith("."):
            return False
        folder = os.path.join(directory, name)
        if not local:
            return True
        real = os.path.realpath(folder)
        if real in chains[directory]:
            return False
        if not (follow_links or _inside(real, root)):
            outside.append(folder)
            return False
        chains[folder] = (*chains[directory], real)
        return True

    for directory, folders, files in tf.io.gfile.walk(path):
        folders[:] = [name for name in folders if enter(directory, name)]
        for name in files:
            if name.startswith(".") or not name.lower().endswith(EXTENSIONS):
                continue
            file = os.path.join(directory, name)
            if local and not follow_links and os.path.islink(file):
                if not _inside(os.path.realpath(file), root):
                    outside.append(file)
                    continue
            found.append(file)
    return sorted(found), sorted(outside)


def _inside(path, root):
    return os.path.commonpath([path, root]) == root

"""A folder of image files, flat or nested."""

import collections
import dataclasses
import functools
import os
import stat

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import files as files_lib
from tfssl.data.sources import base as source_lib
from tfssl.data.sources import tiff

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi"),
    *(".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
)
_SHOWN = 8  # Endings or classes that a message names.
_SIZED = 256  # Files whose size counts in an identity.


class NoClassFolder(ValueError):
    """Raised for image files outside of class folders, where folders are classes."""


class FileSource(source_lib.Source):
    """Image files, read when needed.

    The fingerprint covers the files' names (without folders), sizes and labels, not
    their content, which would take too long to read. The identity covers the names,
    from the folder on that holds them all, and the sizes of at most 256 files: asking
    for a size takes milliseconds where files are remote.

    Args:
        files: paths, in the order that numbers them; bytes that are not UTF-8 as
            `os.fsdecode` has them.
        name: for logs.
        labels: int `(n,)`, or `(n, classes)` (see `Source.label_sets`), or None.
        class_names: tuple or None.
        channels: 1, 3 or 4.
        bit_depth: 8 or 16.

    Raises:
        ValueError: for TIFF files without Pillow.
    """

    encoded = True

    def __init__(
        self, files, *, name, labels=None, class_names=None, channels=3, bit_depth=8
    ):
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
        self._has_tiff = any(map(tiff.is_tiff, self._files))
        if self._has_tiff and not tiff.available():
            raise ValueError(
                f"{name} holds TIFF files, which need Pillow: {tiff.INSTALL}; or "
                "convert them to PNG."
            )

    def read(self, index):
        if self._tensor is None:
            # A data service has a working directory of its own.
            paths = [os.fsencode(files_lib.absolute(file)) for file in self._files]
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(paths)
        encoded = tf.io.read_file(tf.gather(self._tensor, index))
        return tiff.as_png(encoded) if self._has_tiff else encoded

    def describe(self, index):
        return _printable(self._files[int(index)])

    @property
    def has_names(self):
        return True

    def places(self):
        """The files' paths, without links."""
        real, links = functools.cache(os.path.realpath), functools.cache(_links)

        def place(path):
            if "://" in path:
                return path
            folder, name = os.path.split(path)
            if name in links(folder):
                return os.path.realpath(path)
            return os.path.join(real(folder), name)

        return [place(path) for path in self._files]

    def _fingerprint(self, digest):
        for path in self._files:
            name = _printable(os.path.basename(path))
            digest.update(f"{name} {_size(path)}\n".encode())

    def _identity(self, digest):
        shared = os.path.commonprefix([min(self._files), max(self._files)])
        start = len(os.path.dirname(shared))
        names = "\n".join(path[start:] for path in self._files)
        digest.update(names.encode(errors="surrogateescape"))
        count = len(self._files)
        for place in np.unique(np.linspace(0, count - 1, _SIZED).astype(np.int64)):
            digest.update(f" {_size(self._files[place])}".encode())


def _links(folder):
    """Names of the links in a folder; one listing costs less than to ask each file."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:  # Missing files are found out when they are read.
        return set()


def _printable(path):
    """A path as text, with escapes for what is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _size(path):
    """Bytes of a file, -1 where it is away."""
    try:
        return tf.io.gfile.stat(os.fsencode(path)).length
    except tf.errors.OpError:
        return -1


def folder(path, *, labels="auto", channels=None, bit_depth=8, follow_links=False):
    """Image files of a folder, flat or nested, sorted by path.

    Files are taken by their ending, TIFF files where Pillow is installed; what they
    hold is found out when they are decoded. Files of other endings are counted, logged
    and left out, as are class folders without an image, and pipes, sockets and devices,
    for which a read could wait for ever. Hidden files are left out. Links are followed
    inside the folder, and an image that they repeat is one more, which is logged; those
    that lead out of it are counted, logged and left out.

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
    found = _image_files(path, follow_links)
    found = dataclasses.replace(found, files=_regular(found.files, path))
    name, outside = _printable(path), [_printable(link) for link in found.outside]
    if outside:
        logging.warning(
            "%s: %d links that lead out of the folder were left out (%s); pass "
            "follow_links=True to take what is behind them.",
            name,
            len(outside),
            outside[0],
        )
    if found.again:
        logging.warning(
            "%s: %d images are there more than once, by links (%s): they count more "
            "than others, and validation_fraction may hold out images that train.",
            name,
            len(found.again),
            _printable(found.again[0]),
        )
    if found.others:
        unread = any(map(tiff.is_tiff, found.others))
        logging.warning(
            "%s: %d files of other endings were left out (%s); %s.",
            name,
            found.others.total(),
            _listed(f"{end} {count}" for end, count in found.others.most_common()),
            f"TIFF needs Pillow: {tiff.INSTALL}"
            if unread
            else "convert images of other kinds to PNG",
        )
    if not found.files:
        behind = f", only {len(outside)} links that lead out of it" if outside else ""
        raise ValueError(
            f"{name} holds no image file ({', '.join(EXTENSIONS)}){behind}; check the "
            f"path{' or pass follow_links=True' if outside else ''}."
        )
    names, ids = None, None
    if labels == "folders":
        names, ids = _classes(path, found)
    return FileSource(
        found.files,
        name=name,
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
            _printable(path),
            len(special),
            _printable(min(special)),
        )
    return [file for file in files if file not in special]


def _classes(path, found):
    parts = [os.path.relpath(file, path).split(os.sep) for file in found.files]
    if any(len(p) == 1 for p in parts):
        raise NoClassFolder(
            f"labels='folders' received, but {_printable(path)} holds image files "
            "outside of class folders; use one folder per class, or labels='none'."
        )
    tops = [_printable(p[0]) for p in parts]
    names = tuple(sorted(set(tops)))
    empty = sorted(set(map(_printable, found.folders)) - set(names))
    if empty:
        logging.warning(
            "%s: %d class folder(s) hold no image file and make no class: %s",
            _printable(path),
            len(empty),
            _listed(empty),
        )
    return names, np.searchsorted(names, tops)


def _listed(texts):
    texts = list(texts)
    return ", ".join(texts[:_SHOWN]) + (", …" if len(texts) > _SHOWN else "")


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a folder holds.

    Attributes:
        files: image files, sorted by path.
        outside: links that lead out of the folder and were left out.
        again: image files that are others of them too, by links.
        others: number of the other files, by ending.
        folders: names of the folders of the first level.
    """

    files: list
    outside: list
    again: list
    others: collections.Counter
    folders: list


def _walk(path):
    """`os.walk`, also of a remote folder; local names need not be UTF-8."""

    def stop(error):
        raise error

    if "://" in path:
        return tf.io.gfile.walk(path)
    return os.walk(path, onerror=stop, followlinks=True)


def _image_files(path, follow_links):
    local = "://" not in path
    root = os.path.realpath(path)
    found, outside, others, tops = [], [], collections.Counter(), None
    links = {}  # Of files and folders, with what they lead to.
    endings = EXTENSIONS + (tiff.EXTENSIONS if tiff.available() else ())
    # Of each folder, its real path last, after those of the folders it lies in: a
    # link to one of them is a walk without end.
    chains = {path: (root,), os.path.dirname(os.path.join(path, "")): (root,)}

    def enter(directory, name):
        if name.startswith("."):
            return False
        folder = os.path.join(directory, name)
        if not local:
            return True
        real = os.path.realpath(folder)
        if real in chains[directory]:
            return False
        if not (follow_links or files_lib.inside(real, root)):
            outside.append(folder)
            return False
        if real != os.path.join(chains[directory][-1], name):
            links[folder] = real
        chains[folder] = (*chains[directory], real)
        return True

    for directory, folders, files in _walk(path):
        folders[:] = [name for name in folders if enter(directory, name)]
        if tops is None:
            tops = list(folders)
        for name in files:
            if name.startswith("."):
                continue
            if not name.lower().endswith(endings):
                ending = os.path.splitext(name)[1].lower()
                others[_printable(ending) or "without an ending"] += 1
                continue
            file = os.path.join(directory, name)
            if local and os.path.islink(file):
                real = os.path.realpath(file)
                if not (follow_links or files_lib.inside(real, root)):
                    outside.append(file)
                    continue
                links[file] = real
            found.append(file)
    found = sorted(found)

    again, seen = [], set()
    for file in found if links else ():
        directory, name = os.path.split(file)
        real = links.get(file) or os.path.join(chains[directory][-1], name)
        if real in seen:
            again.append(file)
        seen.add(real)
    return _Found(found, sorted(outside), again, others, tops or [])

"""Where images come from: one function that opens them all, and a cut in two."""

import copy
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import checks, files
from tfssl.data import labels as labels_lib
from tfssl.data.sources import (
    clips,
    depth,
    digits,
    image_folder,
    manifest,
    manifest_rows,
    records,
    scenes,
)
from tfssl.data.sources import tfds as tfds_source
from tfssl.data.sources.arrays import ArraySource
from tfssl.data.sources.base import Source
from tfssl.data.sources.streams import StreamSource

# Data that is made here, and known by one word.
_MADE = {"digits": digits.digits, "scenes": scenes.scenes}
_KINDS = (
    *_MADE,
    "tfds:NAME",
    "tfds-dir:PATH",
    "manifest:PATH",
    "tfrecord:PATH",
    "folder:PATH or a path",
)

# Options of one kind of data only.
OPTIONS = {
    "data_dir": "tfds",
    "follow_links": "folder",
    "root": "manifest",
    "verify": "tfrecord",
}

_KNOWN = set()  # What was opened in this process, and warned of where need be.


def open_source(
    data,
    *,
    split=None,
    channels=None,
    labels="auto",
    bit_depth=8,
    data_dir=None,
    follow_links=False,
    root=None,
    verify=False,
):
    """Opens images, wherever they are.

    Args:
        data: one of
            `"digits"`: scikit-learn's 1,797 handwritten digits, 32×32, one channel;
            `"scenes"`: 2,500 rendered scenes, 32×32, with depth, surface normals and
            maps of classes, see `scenes`;
            `"tfds:NAME"`: a TFDS dataset, `"tfds-dir:PATH"`: a prepared one;
            `"folder:PATH"` or a path: image files, in any depth of folders;
            `"manifest:PATH"`, or a path that ends in `.csv` or `.jsonl`: a list of
            image files, see `manifest`;
            `"tfrecord:PATH"`: the index (`….json`) of records that
            `tasks.make_tfrecords` wrote, or a pattern of files, see `records`;
            an array `(n, height, width[, channels])`, or a pair with its labels;
            a `tf.data.Dataset` of images, or of dicts with `"image"` and `"label"`,
            the same in every pass (see `streams`);
            a `Source`, which is returned as it is (or, with `labels="none"`, a copy
            without labels).
        split: part of TFDS data (default `"train"`), of a manifest (its `split`
            column), of the digits (`"train"`, the default, `"test"` or `"all"`) or of
            the scenes (`"train"` or `"test"`).
        channels: 1, 3 or 4, what files are decoded to; default 3 for files, the
            data's own otherwise. Of a manifest with further files, see `manifest`.
        labels: `"auto"`: where the data has true ones; `"none"`; `"folders"`: the
            name of the first folder level is the class, of a folder only.
        bit_depth: 8 or 16, of files. Where some have 16 and are read with 8, a warning
            says so, once in a process.
        data_dir: of `"tfds:NAME"`, the folder where its prepared data lies.
        follow_links: of a folder, take the files behind links that lead out of it.
        root: of a manifest, a folder besides its own that files may lie in.
        verify: of TFRecord files, check every byte against its checksum first.

    Returns:
        A `Source`.

    Raises:
        ValueError: for data that is missing, empty or of an unknown kind, and for
            options that this kind of data does not have.
    """
    checks.one_of({"labels": labels}, "labels", ("auto", "none", "folders"))
    checks.one_of({"bit_depth": bit_depth}, "bit_depth", (8, 16))
    checks.whole({"channels": channels}, "channels", optional=True)
    data_dir, root = files.expanded(data_dir), files.expanded(root)
    decoded = {"channels": channels, "bit_depth": bit_depth}
    only = {
        "data_dir": data_dir,
        "follow_links": follow_links,
        "root": root,
        "verify": verify,
    }
    if isinstance(data, str | os.PathLike):
        kind, path = _kind(os.fspath(data))
        _check_options(kind, data, split, labels, only)
        if kind in _MADE:
            _warn_of_folder(kind)
            source = _MADE[kind](split or "train")
        elif kind == "folder":
            source = image_folder.folder(
                path, labels=labels, follow_links=follow_links, **decoded
            )
        elif kind == "manifest":
            source = manifest.manifest(path, split=split, root=root, **decoded)
        elif kind == "tfrecord":
            source = records.open_records(path, verify=verify, **decoded)
        else:
            source = tfds_source.open_tfds(
                kind, path, split=split or "train", data_dir=data_dir, **decoded
            )
        if kind in ("folder", "manifest", "tfrecord"):
            if _is_new(kind, path, split, bit_depth):
                depth.tell_if_cut(source)
    else:
        source = _open_object(data, **decoded)
        _check_options(None, source.name, split, labels, only)
    if labels == "none":
        source = copy.copy(source)
        source.labels = None
    if channels is not None and channels != source.channels:
        raise ValueError(
            f"channels={channels} received (or taken from an encoder), but "
            f"{source.name} has {source.channels} and is decoded already; leave "
            "channels out, or take an encoder of such images."
        )
    return source


def kind_of(data):
    """`"folder"`, `"manifest"`, … of data that is given as text, else None.

    Raises:
        ValueError: if it is a path that is not there, or no kind at all.
    """
    return _kind(os.fspath(data))[0] if isinstance(data, str | os.PathLike) else None


def fitting(data, options):
    """Options for data, without those that only another kind of data has.

    Args:
        data: as for `kind_of`.
        options: dict, arguments of `open_source`. `labels="folders"` is for folders.
    """
    kind = kind_of(data)
    owners = dict(OPTIONS)
    if options.get("labels") == "folders":
        owners["labels"] = "folder"
    return {k: value for k, value in options.items() if owners.get(k, kind) == kind}


def _kind(data):
    """`(kind, path or name)` of data that is given as text."""
    if data in _MADE:
        return data, ""
    if not data or "\0" in data:
        raise checks.refused("data", data, f"one of {', '.join(_KINDS)}")
    kind, _, rest = data.partition(":")
    data = files.expanded(data)
    if rest and kind in ("tfds", "tfds-dir", "manifest", "tfrecord", "folder"):
        path = files.expanded(rest)
    elif _is_folder(data):
        kind, path = "folder", data
    elif data.lower().endswith(manifest_rows.ENDINGS):
        kind, path = "manifest", data
    else:
        kind, path = "folder", data
    if kind == "folder" and not _is_folder(path):
        raise ValueError(
            f"data={data!r} is no folder and none of {', '.join(_KINDS)}; check the "
            "path."
        )
    return kind, path


def _is_new(kind, path, *options):
    """Whether this process asks so of these files for the first time."""
    data = (kind, files.absolute(path), *options)
    new = data not in _KNOWN
    _KNOWN.add(data)
    return new


def _is_folder(path):
    if "://" in path:
        return tf.io.gfile.isdir(path)
    return os.path.isdir(path)  # Names need not be UTF-8, as TensorFlow's.


def _warn_of_folder(kind):
    """Says where data that is made here has the name of a folder too."""
    if os.path.isdir(kind) and _is_new(kind, kind):
        logging.warning(
            "data=%r is the data of that name that comes with tfssl, not the folder "
            "%r of the working directory; for the folder give folder:%s.",
            kind,
            kind,
            kind,
        )


def _check_options(kind, data, split, labels, only):
    """Refuses options that this kind of data would leave without effect."""
    if split is not None and kind not in (*_MADE, "manifest", "tfds", "tfds-dir"):
        raise ValueError(
            f"split={split!r} received for {data}, which has no splits; pass the part "
            "itself as data, or use validation_fraction."
        )
    if labels == "folders" and kind != "folder":
        raise ValueError(
            f"labels='folders' received, but {data} is no folder of image files; use "
            "labels='auto', which takes the labels that the data has."
        )
    for option, owner in OPTIONS.items():
        if only[option] and kind != owner:
            raise ValueError(
                f"{option}={only[option]!r} received for {data}, but it is for "
                f"{owner}:… data only; leave it out."
            )


def _open_object(data, channels, bit_depth):
    """A source of what is in memory, or a source itself."""
    if isinstance(data, Source):
        return data
    if isinstance(data, tf.data.Dataset):
        return StreamSource(
            data, name="tf.data", channels=channels, bit_depth=bit_depth
        )
    if isinstance(data, tuple) and len(data) == 2:
        return ArraySource(*data)
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return ArraySource(data)
    raise ValueError(
        f"data of type {type(data).__name__} received, expected one of "
        f"{', '.join(_KINDS)}, arrays, a tf.data.Dataset or a Source."
    )


def holdout(source, *, fraction=0.1, seed=0, by=None):
    """Cuts a source into training and validation images.

    Class-balanced where there are labels; the same cut for the same seed. Where some
    images have a label, the validation images are a share of those, since validation
    is of use with labels only; all unlabelled images are for training.

    Images that have something in common (`Source.together`: frames of one clip) are all
    on one side, also if they have no label; their number is then near that share, as
    whole clips allow.

    Args:
        source: a `Source`; both parts of one that is read in sequence read all of it.
        fraction: in (0, 1), share of the images (the labelled ones, if there are any)
            that are for validation.
        seed: int.
        by: the same images opened with other labels, which decide; None takes those of
            `source`.

    Returns:
        `(train, validation)`, two sources.

    Raises:
        ValueError: if one of them would be empty.
    """
    by = source if by is None else by
    rows, kind = labels_lib.labelled(by), "labelled images"
    if not len(rows):
        rows, kind = np.arange(source.num_images), "images"
    count = round(fraction * len(rows))
    if not 0 < fraction < 1 or not 0 < count < len(rows):
        raise ValueError(
            f"fraction={fraction} of {len(rows)} {kind} received for validation; "
            "expected a share in (0, 1) that leaves images on both sides."
        )
    labels = np.zeros(len(rows), np.int64)
    if by.labels is not None:
        labels = by.labels[rows]
    order = labels_lib.balanced_order(labels, seed)
    if source.together is None:
        _, back = np.unique(labels[order][::-1], return_index=True)
        last = np.sort(len(order) - 1 - back)  # Of each class.
        order = np.concatenate([np.delete(order, last), order[last]])
        validation = rows[order[:count]]
    else:
        parts = clips.connected(source.together())
        found = clips.held_out(parts[rows], labels, order, count)
        validation = np.flatnonzero(np.isin(parts, found))
        if not found:
            raise ValueError(
                f"fraction={fraction} of {len(rows)} {kind} received for validation, "
                "but frames of one clip and images that share a file stay together, "
                f"and {source.name} has {len(np.unique(parts))} such part(s), none of "
                "which is so small; give another fraction, or validation images of "
                "their own."
            )
    training = np.setdiff1d(np.arange(source.num_images), validation)
    return (
        source.subset(training, f"{source.name}[training part]"),
        source.subset(np.sort(validation), f"{source.name}[validation part]"),
    )

"""A list of image files with labels and splits: CSV or JSON lines.

```
path,label,split            {"path": "cats/1.jpg", "label": "cat", "split": "train"}
cats/1.jpg,cat,train        {"path": "dogs/7.png", "label": "dog", "split": "test"}
dogs/7.png,dog,test
```

`path` is needed, relative to the manifest's folder. `label` is a whole number (-1 or
nothing where unknown) or the name of a class, `split` any name, `clip` the video that
an image is a frame of, which a hold-out does not cut. One of these names with spaces or
capitals is refused, as is a value of the last three with a space at an end; other
columns are left alone. The rows' order numbers the images.

Columns `channels:NAME:KIND` name further files of the same size as the image, whose
channels are stacked behind its own, in the order of the columns: see `aligned`.

Images with any number of classes have `labels` in place of `label`: a list of names or
numbers in JSON, `cat|dog` in CSV. Where it is null, or nothing in CSV, the classes of
the image are unknown; `[]` is an image that has none of them.
"""

import functools
import os
import re

import numpy as np

from tfssl import files as files_lib
from tfssl.data.sources import aligned, image_folder, label_sets, manifest_rows

_CLIP = "clip"
_WHOLE = re.compile(r"-?[0-9]{1,9}")
# As pandas writes whole numbers, where others are missing.
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.0+)?")
_WEB = ("http://", "https://", "ftp://")


def manifest(path, *, split=None, root=None, channels=None, bit_depth=8):
    """Opens the images that a manifest lists.

    Whether the files are there and can be read is found out when they are decoded,
    as for a folder.

    Args:
        path: file that ends in `.csv` (with a header line) or `.jsonl`, UTF-8, local
            or any that `tf.io.gfile` reads.
        split: name of a split, or `"all"`. None takes all rows where there is no
            split, else `"train"`.
        root: a second folder that files may lie in. Files outside of it and of the
            manifest's folder are refused, links that lead out included.
        channels: 1, 3 or 4; None is 3, and with further files as many as they make
            with it. With 1, 3 or 4 (if that is not what they make) these are left out;
            a hold-out keeps images together that share one of the pictures all the
            same.
        bit_depth: 8 or 16.

    Returns:
        A `FileSource`, with further files an `AlignedSource`. Names of classes are
        numbered in sorted order, over all splits.

    Raises:
        ValueError: naming the line, for whatever cannot be used.
    """
    rows = manifest_rows.read(path, (_CLIP,))
    folder = os.path.dirname(path)
    allowed = [folder or "."] + ([os.fspath(root)] if root else [])
    columns = _columns(path, rows)
    stacked = _are_stacked(path, columns, channels)
    if not stacked:
        columns = {one: title for one, title in columns.items() if one.kind == "rgb"}
    files, *others = files_of(path, rows, folder, allowed, list(columns.values()))
    labels, names = _labels(path, rows)
    kept = _of_split(path, rows, split)
    about = {
        "name": path,
        "labels": None if labels is None else labels[kept],
        "class_names": names,
        "bit_depth": bit_depth,
    }
    files, *others = ([some[i] for i in kept] for some in (files, *others))
    further = dict(zip(columns, others))
    if stacked:
        source = aligned.AlignedSource(files, further, **about)
    else:
        source = image_folder.FileSource(files, channels=channels or 3, **about)
        if further:
            # Of the pictures that are left out too, so that the cut is the same.
            source.together = aligned.AlignedSource(files, further, **about).together
    clips = [rows[i][1][_CLIP] for i in kept]
    if any(clip not in (None, "") for clip in clips):
        source.together = functools.partial(_together, source.together, clips)
    return source


def _together(of_files, clips):
    """`Source.together` of images in these clips, which may share files too."""
    files = of_files() if of_files else [()] * len(clips)
    return [
        keys if clip in (None, "") else (*keys, (_CLIP, str(clip)))
        for keys, clip in zip(files, clips)
    ]


def _columns(path, rows):
    """Dict of the further files' `aligned.Column` to its title."""
    line, titles = rows[0][0], manifest_rows.further(rows[0][1])
    for other, row in rows:
        found = manifest_rows.further(row)
        if set(found) != set(titles):
            raise manifest_rows.refused(
                path,
                other,
                f"further files {found}, but line {line} has {titles}; name the same "
                "ones in all lines.",
            )
    try:
        return {aligned.column(title): title for title in titles}
    except ValueError as error:
        raise manifest_rows.refused(path, line, str(error)) from error


def _are_stacked(path, columns, channels):
    """Whether the channels of the further files are to be behind those of the image."""
    if not columns:
        return False
    stacked, titles = aligned.channels(columns), ", ".join(columns.values())
    if channels not in (None, 1, 3, 4, stacked):
        raise ValueError(
            f"channels={channels} received (or taken from an encoder), but the images "
            f"of {path} have {stacked} with the files of {titles}; give that, or 1, 3 "
            "or 4 for the images alone."
        )
    return channels in (None, stacked)


def files_of(path, rows, folder, allowed, titles):
    """Lists of the rows' files, of `path` and of each further column.

    Each file is in an allowed folder; an image is listed once, further files may be
    those of several images.
    """
    real_folder = functools.cache(os.path.realpath)
    roots = [files_lib.real(root, real_folder) for root in allowed]

    def checked(line, title, given):
        """`(file, real path)`."""
        if not isinstance(given, str) or not given or "\0" in given:
            raise manifest_rows.refused(
                path, line, f"{title} {given!r}, expected the name of a file."
            )
        if given.lower().startswith(_WEB):
            raise manifest_rows.refused(
                path,
                line,
                f"{given!r} is a web address; download the image and list the file.",
            )
        file = given if "://" in given else os.path.join(folder, given)
        real = files_lib.real(file, real_folder)
        if not any(files_lib.inside(real, root) for root in roots):
            raise manifest_rows.refused(
                path,
                line,
                f"{given!r} lies outside of {' and '.join(allowed)}; move it there, "
                "or allow its folder with root=FOLDER.",
            )
        if "://" not in file and image_folder.is_special(file):
            raise manifest_rows.refused(
                path,
                line,
                f"{given!r} is a pipe, a socket or a device; list image files only.",
            )
        return file, real

    files, seen = [], {}
    for line, row in rows:
        file, real = checked(line, "path", row["path"])
        if real in seen:
            raise manifest_rows.refused(
                path,
                line,
                f"{row['path']!r} again, as in line {seen[real]}; list it once.",
            )
        seen[real] = line
        files.append(file)
    others = [
        [checked(line, title, row[title])[0] for line, row in rows] for title in titles
    ]
    return files, *others


def _labels(path, rows):
    """Int64 labels, or marks, and the names of classes; each None without any."""
    single = [(line, row["label"]) for line, row in rows]
    several = [(line, _members(path, line, row["labels"])) for line, row in rows]
    known = [(line, label) for line, label in single if label not in (None, "")]
    flat = [(line, label) for line, members in several for label in members or ()]
    if known and flat:
        raise manifest_rows.refused(
            path,
            flat[0][0],
            f"'labels', but line {known[0][0]} has a 'label'; use one of the columns.",
        )
    if flat:
        numbers, names = _numbered(path, flat)
        line, least = min(zip((line for line, _ in flat), numbers), key=lambda x: x[1])
        if least < 0:
            raise manifest_rows.refused(
                path, line, "-1 among 'labels'; leave unknown classes out."
            )
        values = iter(numbers)
        lists = [
            None if members is None else [next(values) for _ in members]
            for _, members in several
        ]
        classes = len(names) if names else max(numbers) + 1
        if classes == 1:
            raise ValueError(
                f"{path} has one class only in 'labels', expected two or more; of one "
                "class per image use 'label'."
            )
        return label_sets.of_numbers(lists, classes), names
    if not known:
        return None, None
    numbers, names = _numbered(path, known)
    values = iter(numbers)
    found = [-1 if label in (None, "") else next(values) for _, label in single]
    return np.asarray(found, np.int64), names


def _members(path, line, given):
    """The classes of an image, a list of names or numbers, or None if unknown."""
    if given in (None, "", "[]"):  # The last in CSV: none, which is known.
        return [] if given else None
    members = given.split(manifest_rows.BETWEEN) if isinstance(given, str) else given
    json_in_csv = isinstance(given, str) and given.startswith("[")
    known = isinstance(members, list) and not any(m in (None, "") for m in members)
    if json_in_csv or not known:
        raise manifest_rows.refused(
            path,
            line,
            f"labels {given!r}, expected a list of classes (in CSV: cat|dog).",
        )
    return members


def _numbered(path, known):
    """`(number of each label, names)`; names are None where labels are numbers."""
    texts = [label for _, label in known if isinstance(label, str)]
    form = _DECIMAL if all(map(_DECIMAL.fullmatch, texts)) else _WHOLE
    numbers = [_number(path, *pair, form) for pair in known]
    if None not in numbers:
        label_sets.check_numbers(numbers, path)
        return numbers, None
    if any(number is not None for number in numbers):
        line, number = next((p[0], n) for p, n in zip(known, numbers) if n is not None)
        other, name = next(p for p, n in zip(known, numbers) if n is None)
        raise manifest_rows.refused(
            path,
            other,
            f"labels that are numbers ({number} in line {line}) and labels that are "
            f"names ({name!r} in line {other}); use one kind.",
        )
    names = sorted({label for _, label in known})
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[label] for _, label in known], tuple(names)


def _number(path, line, label, form):
    """A label as an int, or None for a text of another form, the name of a class."""
    if isinstance(label, str):
        if not form.fullmatch(label):
            return None
        label = int(label.partition(".")[0])
    elif isinstance(label, float) and label.is_integer():
        label = int(label)
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not -1 <= label < 10**9:
        raise manifest_rows.refused(
            path,
            line,
            f"label {label!r}, expected a whole number from 0 (-1 for none), or the "
            "name of a class.",
        )
    return label


def _of_split(path, rows, split):
    """Places of the rows of a split."""
    found = [row["split"] for _, row in rows]
    if all(name is None for name in found):
        if split not in (None, "all"):
            raise ValueError(
                f"split={split!r} received, but {path} has no column 'split'; add it, "
                "or leave split out."
            )
        return np.arange(len(rows))
    for (line, _), name in zip(rows, found):
        if not isinstance(name, str) or not name:
            raise manifest_rows.refused(
                path, line, f"split {name!r}, expected the name of a split."
            )
    if split == "all" and "all" not in found:
        return np.arange(len(rows))
    wanted = split or "train"
    kept = np.flatnonzero([name == wanted for name in found])
    if not len(kept):
        known = ", ".join(sorted(set(found))[:10])
        raise ValueError(
            f"split={split!r} received, but {path} has {known}; choose one of them, or "
            "'all'."
        )
    return kept

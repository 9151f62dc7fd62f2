"""Images that one training holds out and what it begins with has learned from."""

import os

from absl import logging

from tfssl import files
from tfssl.data import sources
from tfssl.tasks import folder_classes, runs, settings

# They say which images; the others say which of them are held out.
_IMAGES = ("data", "split", "data_dir", "data_args")
_CUT = ("validation_fraction", "seed", "labels")
_WHOLE = "whole clips"
_PARTED = (
    "without regard to clips and shared pictures (by an older version, or because the "
    "manifest named no clips then)"
)


def check(run, name, task, given):
    """Warns where images held out of a training may have trained what it begins with.

    Both record the same images, of which they hold out different parts, or the earlier
    one none. What the settings do not tell is not found: the same files by another
    name.

    Args:
        run: an encoder, a student, a teacher or what `init_from` names, as given; of
            the folder of a run alone it is known what it has learned from.
        name: of this argument.
        task: name of the task that begins with it.
        given: dict, the settings of this training.
    """
    if not isinstance(run, str | os.PathLike) or not given["validation_fraction"]:
        return
    record = runs.record_of(os.fspath(run)) or {}
    before, now = record.get("settings") or {}, settings.recorded(given)
    if settings.in_memory(now["data"]) or _images(before) != _images(now):
        return
    earlier = record.get("task", "pretrain")
    cut = _cut(before, earlier)
    if cut == _cut(now, task):
        return
    told = ", ".join(f"{key}={cut[key]}" for key in _CUT)
    with_labels = " with labels" if earlier in folder_classes.TAKEN_BY else ""
    logging.warning(
        "%s=%s learned from images%s that validate here: of the same %s it held out "
        "%s. Hold out the same (--seed, --labels, --validation_fraction), or give "
        "others as validation_data (--validation_data).",
        name,
        os.fspath(run),
        with_labels,
        now["data"],
        f"another part ({told})" if cut["validation_fraction"] else "none",
    )


def noted(given, train):
    """What run.json holds of how images that belong together are held out, a dict.

    Args:
        given: dict, the settings of this training.
        train: its training images.
    """
    whole = _holds_out(given) and train.together is not None
    return {"holdout": _WHOLE} if whole else {}


def check_own(run, given, train):
    """Refuses to hold out of the images of a run others than it did.

    Args:
        run: its folder.
        given: dict, the settings that the images are opened with now.
        train: the training images that they give.

    Raises:
        ValueError: if it parted images that belong together (`Source.together`).
    """
    record = runs.record_of(run) or {}
    if _parted(record, given, train):
        raise ValueError(
            f"{run} held out some of its images {_PARTED}, and now others would be "
            "held out, which may have trained; train again in another --out, or give "
            "other images as validation_data=… (--validation_data)."
        )


def check_parted(task, given, train):
    """Warns, as `check`, of runs that held out the same share, but parted clips.

    Args:
        task: name of the task that begins with them.
        given: dict, the settings of this training.
        train: its training images.
    """
    for name in ("encoder", "student", "teacher", "init_from"):
        run = given.get(name)
        if not isinstance(run, str | os.PathLike):
            continue
        record = runs.record_of(os.fspath(run)) or {}
        if not _parted(record, given, train):
            continue
        earlier, now = record.get("task", "pretrain"), settings.recorded(given)
        if _cut(record["settings"], earlier) == _cut(now, task):
            logging.warning(
                "%s=%s may have learned from images that validate here: of the same "
                "images it held out others, %s. Train it again, or give others as "
                "validation_data (--validation_data).",
                name,
                os.fspath(run),
                _PARTED,
            )


def _holds_out(found):
    """Whether these settings hold out a part of the training images."""
    beside = found.get("validation_data"), found.get("validation_split")
    return bool(found.get("validation_fraction")) and beside == (None, None)


def _parted(record, given, train):
    """Whether a run held out images of these without regard to what is together."""
    before, made = record.get("settings") or {}, record.get("made") or {}
    if train.together is None or made.get("holdout") == _WHOLE:
        return False
    if not _holds_out(before) or not _holds_out(given):
        return False
    if _images(before) != _images(settings.recorded(given)):
        return False
    return (made.get("images") or {}).get("identity") != train.identity()


def _images(found):
    """Which images the settings of a training name, in a form that can be compared."""
    one = {key: found.get(key) or None for key in _IMAGES}
    if isinstance(one["data"], str):
        path = files.expanded(one["data"].removeprefix("folder:"))
        if os.path.exists(path):
            one["data"] = os.path.realpath(path)
    return one


def _cut(found, task):
    """Which of the images the settings of a task hold out."""
    cut = {key: found.get(key) for key in _CUT}
    cut["validation_fraction"] = cut["validation_fraction"] or 0
    if cut["labels"] == "auto" and _is_folder(found["data"]):
        cut["labels"] = "folders" if task in folder_classes.TAKEN_BY else "none"
    return cut


def _is_folder(data):
    try:
        return sources.kind_of(data) == "folder"
    except ValueError:  # It is there no more.
        return False

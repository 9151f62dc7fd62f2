"""The checkpoints of a folder, and what their `state.json` says."""

import json
import os
import re
import zlib

import tensorflow as tf

from tfssl import files

NAME = re.compile(r"(checkpoint|replaced)-(\d+)$")
FORMAT = 2  # The first had no checksum in state.json.


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are cut short or changed."""


class SaveError(RuntimeError):
    """A checkpoint that could not be written; the earlier ones are untouched."""


def all_checkpoints(folder):
    """Complete checkpoints of a folder, oldest first."""
    if not tf.io.gfile.isdir(folder):
        return []
    found = {}
    for entry in sorted(tf.io.gfile.listdir(folder), reverse=True):
        match = NAME.match(entry.rstrip("/"))
        if match:  # "replaced" comes first, and gives way to "checkpoint".
            found[int(match.group(2))] = entry.rstrip("/")
    return [os.path.join(folder, found[step]) for step in sorted(found)]


def latest(folder):
    """Path of the newest complete checkpoint in `folder`, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def read_state(path):
    """The `state.json` of a checkpoint folder.

    Raises:
        CheckpointError: if there is none.
        DamagedCheckpoint: if it is cut short or changed.
    """
    name = os.path.join(path, "state.json")
    try:
        state = files.read_json(name)
    except files.DamagedFile as error:
        raise DamagedCheckpoint(str(error)) from error
    if state is None:
        if NAME.match(os.path.basename(os.path.normpath(path))):
            raise DamagedCheckpoint(f"{path} is damaged (no state.json).")
        raise CheckpointError(
            f"{path} is not a tfssl checkpoint (no state.json); pass a folder "
            "named checkpoint-<step>, or a run's folder."
        )
    if not _whole(state):
        raise DamagedCheckpoint(f"{name} is damaged (its checksum does not fit).")
    return state


def _whole(state):
    """Whether a `state.json` is as it was written, as far as its format can tell."""
    if not isinstance(state, dict) or not isinstance(state.get("variables"), dict):
        return False
    if state.get("format") == 1:
        return True
    return state.pop("checksum", None) == checksum(state)


def checksum(state):
    """What `state.json` holds beside itself."""
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def remove(path):
    """Removes a folder that may be there."""
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)

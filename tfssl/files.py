"""Small files, written so that a reader sees the old content or the new one.

Paths may be remote (`gs://…`): everything goes through `tf.io.gfile`.
"""

import contextlib
import json
import os

import tensorflow as tf
from absl import logging

# What a storage that is full, broken or away raises.
STORAGE_ERRORS = (OSError, tf.errors.OpError)


def write_bytes(path, content):
    """Writes `content` (bytes) to `path`; its folder is made if it is missing."""
    _write(path, content, "wb")


def write_text(path, text):
    """Writes `text` to `path`; its folder is made if it is missing."""
    _write(path, text, "w")


def write_json(path, value):
    """Writes a JSON-able value to `path`; its folder is made if it is missing."""
    write_text(path, json.dumps(value, indent=1) + "\n")


class DamagedFile(ValueError):
    """A file that is empty, cut short or changed."""


def read_json(path):
    """The value in a JSON file, or None if there is no such file.

    Raises:
        DamagedFile: if it holds no JSON.
    """
    path = os.fspath(path)
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged or empty ({error}).") from error


def read_json_if_whole(path):
    """Like `read_json`, for files that one can do without: None if damaged, warned."""
    try:
        return read_json(path)
    except DamagedFile as error:
        logging.warning("%s It is left out.", error)
        return None


@contextlib.contextmanager
def failures_logged(path):
    """Makes a warning of a failed write, for files that training can do without."""
    try:
        yield
    except STORAGE_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        logging.warning("%s could not be written (%s). Training goes on.", path, reason)


def _write(path, content, mode):
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder:
        tf.io.gfile.makedirs(folder)
    part = f"{path}.part"
    try:
        with tf.io.gfile.GFile(part, mode) as file:
            file.write(content)
        tf.io.gfile.rename(part, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(part):
            tf.io.gfile.remove(part)
        raise

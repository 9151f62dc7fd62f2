"""Small files, written so that a reader sees the old content or the new one.

Paths may be remote (`gs://…`): everything goes through `tf.io.gfile`.
"""

import contextlib
import errno
import json
import os
import posixpath
import re

import tensorflow as tf
from absl import logging

# What a storage that is full, broken or away raises.
STORAGE_ERRORS = (OSError, tf.errors.OpError)
_PART = ".part"
# Of an operating system and of TensorFlow: the path is wrong.
_OF_THE_PATH = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    tf.errors.AlreadyExistsError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,  # The name is too long.
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnimplementedError,  # There is no such kind of storage.
)
# What a storage raises more than operations do.
_OF_A_STORAGE = (
    tf.errors.AlreadyExistsError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnimplementedError,
)
# An operation puts its name around what the storage says.
_OPERATION = re.compile(r"\{\{.*?\}\} | \[Op:.*")


def expanded(path):
    """A path with a leading `~` as the home folder; what is no path stays as it is.

    A shell does not do it behind `--flag=`, and nobody does it in a notebook.
    """
    if isinstance(path, str | os.PathLike):
        return os.path.expanduser(os.fspath(path))
    return path


def absolute(path):
    """A path (str) as it is told to a process that may run in another folder.

    Remote ones are as they are. `..` stays, since a link may stand before it.
    """
    if "://" in path or os.path.isabs(path):
        return path
    return os.path.join(os.getcwd(), path)


def real(path, real_folder=os.path.realpath):
    """A path (str) without links and `..`; remote ones have no links.

    Args:
        path: of a file or a folder, which need not be there.
        real_folder: `os.path.realpath`, for many files of few folders a cached one.
    """
    scheme, remote, rest = path.partition("://")
    if remote:
        return f"{scheme}://{posixpath.normpath(rest)}"
    head, tail = os.path.split(path)
    if tail in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    return os.path.join(real_folder(head), tail)


def inside(path, folder):
    """Whether a path is a folder's or lies in it; both as `real` gives them."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def storage_failure(error):
    """What a storage's error says.

    Args:
        error: an exception.

    Returns:
        `(sentence, whether the path is wrong)`, or None if no storage raised it, but
        an operation of TensorFlow, say. A path that is right may fail as well: a
        disk is full.
    """
    if isinstance(error, OSError):
        told = error.filename, error.strerror or reason_of(error)
    elif isinstance(error, tf.errors.OpError):
        told = _told_by_tensorflow(error)
    else:
        told = None
    if told is None:
        return None
    path, reason = told
    # What is written has another name until it is whole.
    named = isinstance(path, str | bytes)
    what = repr(os.fsdecode(path).removesuffix(_PART)) if named else "A file"
    wrong = isinstance(error, _OF_THE_PATH)
    advice = "check the path" if wrong else "mend that, and start the same again"
    return f"{what} cannot be read or written ({reason.rstrip('.')}); {advice}.", wrong


def _told_by_tensorflow(error):
    """`(path or None, reason)` if its storage failed, None if an operation did."""
    line = (str(error).splitlines() or [""])[0]
    text = reason_of(error)
    path, _, reason = text.rpartition("; ")  # As its storage says it.
    of_a_storage = isinstance(error, _OF_A_STORAGE)
    bare = text == line and not line.startswith("Graph execution error")
    told = (bare or of_a_storage) if path else (bare and of_a_storage)
    if told or isinstance(error, tf.errors.DataLossError):
        return path or None, reason
    return None


def reason_of(error):
    """The first line of what an error says, without TensorFlow's frame around it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _OPERATION.sub("", line)


def cpu_here():
    """The CPU of this process, for operations on files: a device's name.

    Where the process is connected to other hosts, as to those of a TPU slice, `"CPU"`
    is one of theirs: their disks are others, and what fails there is told later.
    """
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    # TensorFlow names a job only where it is another process's, or one of a cluster.
    own = any("/job:" not in name for name in names)
    return "/job:localhost/device:CPU:0" if own else "CPU:0"


def write_bytes(path, content):
    """Writes `content` (bytes) to `path`; its folder is made if it is missing."""
    write_in_pieces(path, lambda file: file.write(content))


def write_in_pieces(path, write):
    """Writes bytes to `path` as `write_bytes`, without holding all of them.

    Args:
        path: of the file.
        write: function of a file that is open for bytes, which can only be written to.
    """
    _write(path, write, "wb")


def write_text(path, text):
    """Writes `text` to `path`; its folder is made if it is missing."""
    _write(path, lambda file: file.write(text), "w")


def write_json(path, value):
    """Writes a JSON-able value to `path`; its folder is made if it is missing."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def check_writable(path):
    """Raises what the storage raises unless a file can be written to `path`.

    For the start of what takes long. What is there stays as it is.
    """
    path = os.fspath(path)
    if tf.io.gfile.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    probe = f"{path}.writable"
    write_text(probe, "")
    tf.io.gfile.remove(probe)


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
        reason = reason_of(error)
        logging.warning("%s could not be written (%s). Training goes on.", path, reason)


def _write(path, write, mode):
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder:
        tf.io.gfile.makedirs(folder)
    part = f"{path}{_PART}"
    try:
        with tf.io.gfile.GFile(part, mode) as file:
            write(file)
        tf.io.gfile.rename(part, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(part):
            tf.io.gfile.remove(part)
        raise

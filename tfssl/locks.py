"""One process at a time in a folder: who writes there says so, the next one stops.

The lock is a file in the folder that names its holder. Where the file system has
them, an operating system's lock on that file decides: it ends with its process,
however that ended, and nothing is left to clean up. Where there are none (`gs://…`,
some network file systems) the file itself decides: one that a process of this host
has left when it was killed is taken over; whether a process of another host still
runs cannot be known here, so its file holds until somebody removes it.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import uuid

import tensorflow as tf

from tfssl import files

FILE = ".lock"  # Of a folder as a whole.

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held = set()  # An `ExitStack` for each context that is open.


class InUse(ValueError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def hold(folder, name=""):
    """While open, no other process can hold the same folder and name.

    A folder that is missing is made, and removed again if nothing was put into it.

    Args:
        folder: path, local or any that `tf.io.gfile` writes.
        name: of one of several things in the folder that have writers of their own.

    Raises:
        InUse: if another process holds it.
        ValueError: if the folder cannot be written.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, f".{name}.lock" if name else FILE)
    what = os.path.join(folder, name) if name else folder
    with contextlib.ExitStack() as held:
        held.callback(_remove_empty, _missing(folder))
        try:
            tf.io.gfile.makedirs(folder)
            held.callback(_lock_file(path, what))
        except files.STORAGE_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"The output folder {folder!r} cannot be written ({reason}); choose "
                "another one."
            ) from error
        _held.add(held)
        try:
            yield
        finally:
            _held.discard(held)


def give_back_all():
    """Ends all that this process holds; for one that leaves without its contexts."""
    for held in list(_held):
        held.close()


def _lock_file(path, what):
    """Takes the lock; returns the function that gives it back."""
    if "://" not in path:
        try:
            return _system_lock(path, what)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return _written_lock(path, what)


def _system_lock(path, what):
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise InUse(_sentence(what, _holder(path))) from error
            raise
        if _same_file(descriptor, path):
            break
        os.close(descriptor)  # Its holder removed the file between the two calls.

    def release():
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)

    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_myself()).encode())
    except OSError:
        release()
        raise
    return release


def _same_file(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _written_lock(path, what):
    mine = _myself()
    for _ in range(2):  # Read again what was written: another may have been as quick.
        found = _holder(path)
        if found and found != mine and _may_run(found):
            advice = "" if found["host"] == mine["host"] else _remove_advice(path)
            raise InUse(_sentence(what, found) + advice)
        if found != mine:
            files.write_json(path, mine)

    def release():
        with contextlib.suppress(*files.STORAGE_ERRORS):
            if _holder(path) == mine:
                tf.io.gfile.remove(path)

    return release


def _myself():
    now = datetime.datetime.now().astimezone()
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "since": now.isoformat(" ", "seconds"),
        "id": uuid.uuid4().hex,
    }


def _holder(path):
    """What a lock file says, or None where it says nothing."""
    try:
        found = files.read_json(path)
    except ValueError:
        return None
    complete = isinstance(found, dict) and _myself().keys() <= found.keys()
    return found if complete else None


def _may_run(holder):
    """Whether the process could still be there."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is another user's.
    return holder["started"] == _start_of(holder["process"])


def _start_of(process):
    """When a process began, in ticks since boot: numbers of processes come again.

    None where the system does not tell.
    """
    try:
        with open(f"/proc/{process}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _sentence(what, holder):
    by = "another process"
    if holder:
        by = "process {process} on {host} since {since}".format(**holder)
    return f"{what} is in use by {by}; wait for its end, or choose another folder."


def _remove_advice(path):
    return f" If that process has ended, remove {path}."


def _missing(folder):
    """The folders on the way that do not exist, the deepest first."""
    found = []
    while folder and "://" not in folder and not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def _remove_empty(folders):
    for folder in folders:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue  # Those above it were made.
        except OSError:
            return  # Something is in it.

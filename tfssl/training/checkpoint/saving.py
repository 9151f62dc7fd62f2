"""Writing a checkpoint, whole or not at all, and removing old ones."""

import contextlib
import os
import shutil

import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.training import workers as workers_lib
from tfssl.training.checkpoint import folders, naming

_ALONE = workers_lib.Workers()


def save(folder, method, *, keep=3, protect=(), extra=None, also=None, workers=_ALONE):
    """Writes `folder/checkpoint-<step>/` atomically and prunes old ones.

    Args:
        folder: path, made if missing.
        method: a `Method` whose optimizer is set.
        keep: int >= 1, how many of the newest checkpoints stay.
        protect: paths that pruning must not remove (the best by kNN).
        extra: JSON-able dict stored with the state.
        also: dict of name to tensor, stored beside the method for `read_also`.
        workers: `workers.Workers`; all of them call this, the chief writes, and
            none returns before the checkpoint is complete.

    Returns:
        The path of the new checkpoint.

    Raises:
        SaveError: on all workers, if it could not be written.
    """
    # Read on every worker: metrics are summed over the replicas when read.
    values = {
        name: tf.convert_to_tensor(v)
        for name, v in naming.named_variables(method).items()
    }
    step = int(method.step.numpy())
    final = os.path.join(folder, f"checkpoint-{step}")
    state = {
        "format": folders.FORMAT,
        "step": step,
        "position": int(method.position.numpy()),
        "reached": method.reached.each(),
        "method": type(method).__name__,
        "variables": {
            name: [list(v.shape), v.dtype.name] for name, v in values.items()
        },
        "also": sorted(also or {}),
        "extra": extra or {},
    }
    values |= {f"also/{name}": tensor for name, tensor in (also or {}).items()}
    failure = None

    def write():
        nonlocal failure
        with tf.device(files.cpu_here()):  # A device that fails is no storage.
            here = {name: tf.identity(tensor) for name, tensor in values.items()}
        try:
            _write(folder, final, here, state)
        except files.STORAGE_ERRORS as error:
            failure = error
        else:
            with _old_ones_may_stay(folder):
                _prune(folder, keep, protect)
        return (failure is not None,)

    (failed,) = workers.from_chief(write)
    if failed:
        raise folders.SaveError(_save_failure(folder, step, failure)) from failure
    return final


def _write(folder, final, values, state):
    part = os.path.join(folder, f".part-{state['step']}")
    aside = os.path.join(folder, f"replaced-{state['step']}")
    try:
        _remove_parts(folder)
        tf.io.gfile.makedirs(part)
        with tf.device(files.cpu_here()):
            # Not tf.train.Checkpoint: it makes a variable of its own, which under
            # several workers waits for the others to make it too.
            tf.raw_ops.SaveV2(
                prefix=os.path.join(part, "variables"),
                tensor_names=[naming.key(name) for name in values],
                shape_and_slices=[""] * len(values),
                tensors=list(values.values()),
            )
        checked = state | {"checksum": folders.checksum(state)}
        files.write_json(os.path.join(part, "state.json"), checked)
        if tf.io.gfile.exists(final):
            folders.remove(aside)
            tf.io.gfile.rename(final, aside)
        tf.io.gfile.rename(part, final)
        with _old_ones_may_stay(folder):
            folders.remove(aside)
    except files.STORAGE_ERRORS:
        try:
            folders.remove(part)  # Its bytes may be what the disk lacks.
        except files.STORAGE_ERRORS:
            logging.warning("%s could not be removed", part)
        raise


@contextlib.contextmanager
def _old_ones_may_stay(folder):
    """The checkpoint is whole: that another one cannot be removed is a warning."""
    try:
        yield
    except files.STORAGE_ERRORS as error:
        logging.warning("%s: an old checkpoint could not be removed: %s", folder, error)


def _remove_parts(folder):
    """Removes what a writer that was killed has left."""
    if tf.io.gfile.isdir(folder):
        for entry in tf.io.gfile.listdir(folder):
            if entry.startswith(".part-"):
                folders.remove(os.path.join(folder, entry))


def _prune(folder, keep, protect):
    protected = {os.path.abspath(path) for path in protect if path}
    for path in folders.all_checkpoints(folder)[:-keep]:
        if os.path.abspath(path) not in protected:
            folders.remove(path)


def _save_failure(folder, step, failure):
    """The sentence of a `SaveError`."""
    reason = str(failure or "see the chief's log").strip().splitlines()[0][:200]
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    except OSError:
        free = "its free space is unknown"
    good = folders.latest(folder)
    good = f"the last good checkpoint is {good}" if good else "no checkpoint exists"
    return (
        f"The checkpoint of step {step} could not be written to {folder} ({reason}); "
        f"{free}, {good}. Free some space, or lower --keep."
    )

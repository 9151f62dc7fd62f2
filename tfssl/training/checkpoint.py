"""Checkpoints from which training continues exactly, or not at all.

A checkpoint is a folder `checkpoint-<step>/`. It is written under another name
and renamed when complete: a folder with this name is whole, whatever happened
to the process or the disk. It holds

* `variables.*`: every variable of the method, of its optimizer and of its
  metrics, by name, with a checksum each (TensorFlow's tensor bundle);
* tensors of what stands beside the method (the online probe), which come and go
  without making the checkpoint another one;
* `state.json`: the step, the stream position, and name, shape and dtype of each
  variable, so that a mismatch is told before anything is touched; with a checksum.

Where a checkpoint of the same step is there already, it is set aside as
`replaced-<step>/` until the new one is in place, and counts until then.
"""

import json
import os
import re
import shutil
import zlib

import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.optimizers import slots
from tfssl.training import workers as workers_lib

_FOLDER = re.compile(r"(checkpoint|replaced)-(\d+)$")
_FORMAT = 2  # The first had no checksum in state.json.
_ALONE = workers_lib.Workers()


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are cut short or changed."""


class SaveError(RuntimeError):
    """A checkpoint that could not be written; the earlier ones are untouched."""


def named_variables(method, *, optimizer=True):
    """Everything a run needs to continue, as `{name: tf.Variable}`.

    Names are the Keras paths, prefixed by their owner. Keras numbers names anew
    for each object made in a process (`conv2d_7`, `adam_2`); these numbers are
    taken off, and equal names are numbered in creation order, which is that of
    the architecture. A slot of the optimizer is named after its variable.
    """
    metrics = [v for metric in method.metrics for v in metric.variables]
    metric_ids = {id(v) for v in metrics}
    own = [v for v in method.variables if id(v) not in metric_ids]
    named, names = {}, {}

    def add(name, variable):
        unique, count = name, 1
        while unique in named:
            count += 1
            unique = f"{name}#{count}"
        named[unique] = variable.value
        return unique

    for variable in own:
        path = variable.path.removeprefix(method.name + "/")
        names[variable.path] = add(f"method/{_stable(path)}", variable)
    if not optimizer or method.optimizer is None:
        return named
    method.build_optimizer()
    for variable in method.optimizer.variables:
        add(f"optimizer/{_slot_name(variable.path, names)}", variable)
    for variable in metrics:
        add(f"metrics/{_stable(variable.path)}", variable)
    return named


def _stable(path):
    return "/".join(re.sub(r"_\d+$", "", part) for part in path.split("/"))


def _slot_name(path, names):
    """`adam_2/conv2d_7_kernel_momentum` -> `momentum of method/conv2d/kernel`."""
    owner, slot = slots.owner(path, names)
    return _stable(slot) if owner is None else f"{slot} of {names[owner]}"


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
        name: tf.convert_to_tensor(v) for name, v in named_variables(method).items()
    }
    step = int(method.step.numpy())
    final = os.path.join(folder, f"checkpoint-{step}")
    state = {
        "format": _FORMAT,
        "step": step,
        "position": int(method.position.numpy()),
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
        try:
            _write(folder, final, values, state)
            _prune(folder, keep, protect)
        except files.STORAGE_ERRORS as error:
            failure = error
        return (failure is not None,)

    (failed,) = workers.from_chief(write)
    if failed:
        raise SaveError(_save_failure(folder, step, failure)) from failure
    return final


def _write(folder, final, values, state):
    part = os.path.join(folder, f".part-{state['step']}")
    aside = os.path.join(folder, f"replaced-{state['step']}")
    try:
        _remove_parts(folder)
        tf.io.gfile.makedirs(part)
        with tf.device("CPU"):
            # Not tf.train.Checkpoint: it makes a variable of its own, which under
            # several workers waits for the others to make it too.
            tf.raw_ops.SaveV2(
                prefix=os.path.join(part, "variables"),
                tensor_names=[_key(name) for name in values],
                shape_and_slices=[""] * len(values),
                tensors=list(values.values()),
            )
        checked = state | {"checksum": _checksum(state)}
        files.write_json(os.path.join(part, "state.json"), checked)
        if tf.io.gfile.exists(final):
            _remove(aside)
            tf.io.gfile.rename(final, aside)
        tf.io.gfile.rename(part, final)
        _remove(aside)
    except files.STORAGE_ERRORS:
        try:
            _remove(part)  # Its bytes may be what the disk lacks.
        except files.STORAGE_ERRORS:
            logging.warning("%s could not be removed", part)
        raise


def _remove_parts(folder):
    """Removes what a writer that was killed has left."""
    if tf.io.gfile.isdir(folder):
        for entry in tf.io.gfile.listdir(folder):
            if entry.startswith(".part-"):
                _remove(os.path.join(folder, entry))


def _prune(folder, keep, protect):
    protected = {os.path.abspath(path) for path in protect if path}
    for path in all_checkpoints(folder)[:-keep]:
        if os.path.abspath(path) not in protected:
            _remove(path)


def _save_failure(folder, step, failure):
    """The sentence of a `SaveError`."""
    reason = str(failure or "see the chief's log").strip().splitlines()[0][:200]
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    except OSError:
        free = "its free space is unknown"
    good = latest(folder)
    good = f"the last good checkpoint is {good}" if good else "no checkpoint exists"
    return (
        f"The checkpoint of step {step} could not be written to {folder} ({reason}); "
        f"{free}, {good}. Free some space, or lower --keep."
    )


def all_checkpoints(folder):
    """Complete checkpoints of a folder, oldest first."""
    if not tf.io.gfile.isdir(folder):
        return []
    found = {}
    for entry in sorted(tf.io.gfile.listdir(folder), reverse=True):
        match = _FOLDER.match(entry.rstrip("/"))
        if match:  # "replaced" comes first, and gives way to "checkpoint".
            found[int(match.group(2))] = entry.rstrip("/")
    return [os.path.join(folder, found[step]) for step in sorted(found)]


def latest(folder):
    """Path of the newest complete checkpoint in `folder`, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def restore_latest(folder, method, *, workers=_ALONE):
    """Restores the newest checkpoint that is whole; damaged ones are passed over.

    A damaged checkpoint is logged and renamed `damaged-<step>/`, so that it does
    not count as one of those to keep.

    Args:
        folder: the run's checkpoint folder; the same for all workers.
        method: a `Method` whose optimizer is set.
        workers: `workers.Workers`.

    Returns:
        The path of the checkpoint, or None where there is none.

    Raises:
        CheckpointError: if it is of another model, or all of them are damaged.
    """
    paths = all_checkpoints(folder)
    damaged = []
    for path in reversed(paths):
        try:
            restore(path, method)
        except DamagedCheckpoint as error:
            logging.warning("%s The one before it is used.", error)
            damaged.append(path)
            continue
        if workers.is_chief:
            for other in damaged:
                _set_aside(other)
        return path
    if paths:
        raise CheckpointError(
            f"All {len(paths)} checkpoints of {folder} are damaged; choose another "
            "--out to start anew."
        )
    return None


def _set_aside(path):
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f"damaged-{_FOLDER.match(name).group(2)}")
    _remove(aside)
    tf.io.gfile.rename(path, aside)


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
        if _FOLDER.match(os.path.basename(os.path.normpath(path))):
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
    return state.pop("checksum", None) == _checksum(state)


def _checksum(state):
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def restore(path, method):
    """Restores everything: weights, slots, counters, metrics. All or nothing.

    Raises:
        CheckpointError: if any variable is missing, left over or of another
            shape; the method is then untouched.
        DamagedCheckpoint: if a file is cut short or changed; likewise.
    """
    state = read_state(path)
    variables = named_variables(method)
    problems = _differences(state["variables"], variables)
    if problems:
        raise CheckpointError(
            f"{path} was written by another model or optimizer: "
            f"{_listed(problems)}; start with the flags of that run, or in an "
            "empty folder."
        )
    _read(path, variables)
    return state


def initialize(path, method):
    """Loads the weights only, as a start for a new training (`--init_from`).

    Counters, optimizer and metrics stay as they are. A target network that the
    checkpoint does not hold in full starts as a copy of the loaded networks.

    Returns:
        `(loaded, unmatched)`: names taken over, and sentences about the others.

    Raises:
        CheckpointError: if nothing matches.
    """
    state = read_state(path)
    counters = {"method/step", "method/position"}
    wanted = {
        name: v
        for name, v in named_variables(method, optimizer=False).items()
        if name not in counters
    }
    stored = {
        name: spec
        for name, spec in state["variables"].items()
        if name.startswith("method/") and name not in counters
    }
    unmatched = _differences(stored, wanted)
    loaded = {n: v for n, v in wanted.items() if n in stored and _same(stored[n], v)}
    if not loaded:
        raise CheckpointError(
            f"No variable of {path} fits this model: {_listed(unmatched)}; use the "
            "same encoder and method arguments."
        )
    _read(path, loaded)
    for follower in method.followers:
        values = {id(v.value) for v in follower.variables}
        names = {name for name, v in wanted.items() if id(v) in values}
        if hasattr(follower, "reset") and not names <= set(loaded):
            follower.reset()
            loaded = {n: v for n, v in loaded.items() if n not in names}
            copied = tuple(f"{name} is " for name in names)
            unmatched = [line for line in unmatched if not line.startswith(copied)]
    return sorted(loaded), unmatched


def read_also(path, wanted):
    """The tensors that were stored beside the method.

    Args:
        path: checkpoint folder.
        wanted: dict of name to tensor, as for `save`.

    Returns:
        Dict like `wanted`, or None unless every name is there in the same shape and
        dtype.

    Raises:
        DamagedCheckpoint: if a file is cut short or changed.
    """
    if not set(wanted) <= set(read_state(path).get("also", ())):
        return None
    values = _values(path, [f"also/{name}" for name in wanted])
    found = {name: tf.constant(values[f"also/{name}"]) for name in wanted}
    fits = all(
        found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        for name, tensor in wanted.items()
    )
    return found if fits else None


def _read(path, variables):
    """Assigns all variables, once every one of them has been read and checked."""
    values = _values(path, variables)
    for name, variable in variables.items():
        variable.assign(values[name])


def _values(path, names):
    """Arrays by name."""
    try:
        reader = tf.train.load_checkpoint(os.path.join(path, "variables"))
        return {name: reader.get_tensor(_key(name)) for name in names}
    # TensorFlow raises ValueError where the index is missing, RuntimeError or
    # IndexError where the reader meets bytes that it cannot use.
    except (*files.STORAGE_ERRORS, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise DamagedCheckpoint(f"{path} is damaged ({reason}).") from error


def _key(name):
    """The name of a tensor on disk, as tf.train.Checkpoint would write it."""
    return f"{name.replace('/', '|')}/.ATTRIBUTES/VARIABLE_VALUE"


def _same(spec, variable):
    return spec == [list(variable.shape), variable.dtype.name]


def _differences(stored, variables):
    problems = []
    for name, variable in variables.items():
        if name not in stored:
            problems.append(f"{name} is not in the checkpoint")
        elif not _same(stored[name], variable):
            shape, dtype = stored[name]
            problems.append(
                f"{name} is {tuple(shape)} {dtype} there and "
                f"{tuple(variable.shape)} {variable.dtype.name} here"
            )
    problems += [f"{n} has no place here" for n in stored if n not in variables]
    return problems


def _listed(problems, most=3):
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _remove(path):
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)

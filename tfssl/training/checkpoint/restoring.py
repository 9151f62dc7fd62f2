"""Reading a checkpoint back: everything, or the weights alone."""

import os

import tensorflow as tf
from absl import logging

from tfssl import files, internals
from tfssl.training import workers as workers_lib
from tfssl.training.checkpoint import folders, naming
from tfssl.training.checkpoint.folders import CheckpointError, DamagedCheckpoint

_ALONE = workers_lib.Workers()


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
    paths = folders.all_checkpoints(folder)
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
    aside = os.path.join(folder, f"damaged-{folders.NAME.match(name).group(2)}")
    folders.remove(aside)
    tf.io.gfile.rename(path, aside)


def restore(path, method):
    """Restores everything: weights, slots, counters, metrics. All or nothing.

    Raises:
        CheckpointError: if any variable is missing, left over or of another
            shape; the method is then untouched.
        DamagedCheckpoint: if a file is cut short or changed; likewise.
    """
    state = folders.read_state(path)
    variables = naming.named_variables(method)
    problems = _differences(state["variables"], variables)
    if problems:
        raise CheckpointError(
            f"{path} was written by another model or optimizer: "
            f"{_listed(problems)}; start with the flags of that run, or in an "
            "empty folder."
        )
    _read(path, variables)
    method.reached.restore(state.get("reached"))
    return state


def initialize(path, method):
    """Loads the weights only, as a start for a new training (`--init_from`).

    Counters, optimizer and metrics stay as they are, and so does what belongs to single
    images (layers with `of_images`: banks, NCE's constant, clusters). A target network
    that the checkpoint does not hold in full starts as a copy of the loaded networks.

    Returns:
        `(loaded, unmatched)`: names taken over, and sentences about the others.

    Raises:
        CheckpointError: if nothing matches.
    """
    state = folders.read_state(path)
    named = naming.named_variables(method, optimizer=False)
    own = {id(v.value) for v in _of_images(method)}
    own = {name for name, v in named.items() if id(v) in own}
    own |= {"method/step", "method/position"}
    wanted = {name: v for name, v in named.items() if name not in own}
    stored = {
        name: spec
        for name, spec in state["variables"].items()
        if name.startswith("method/") and name not in own
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


def _of_images(method):
    """Variables that hold something of single images."""
    layers = [x for x in internals.layers_of(method) if getattr(x, "of_images", False)]
    return [variable for layer in layers for variable in layer.variables]


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
    if not set(wanted) <= set(folders.read_state(path).get("also", ())):
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
        return {name: reader.get_tensor(naming.key(name)) for name in names}
    # TensorFlow raises ValueError where the index is missing, RuntimeError or
    # IndexError where the reader meets bytes that it cannot use.
    except (*files.STORAGE_ERRORS, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise DamagedCheckpoint(f"{path} is damaged ({reason}).") from error


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

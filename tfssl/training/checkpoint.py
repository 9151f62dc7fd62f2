"""Checkpoints from which training continues exactly, or not at all.

A checkpoint is a folder `checkpoint-<step>/`. It is written under another name
and renamed when complete: a folder with this name is whole, whatever happened
to the process or the disk. It holds

* `variables.*`: every variable of the method, of its optimizer and of its
  metrics, by name (`tf.train.Checkpoint`);
* `state.json`: the step, the stream position, and name, shape and dtype of each
  variable, so that a mismatch is told before anything is touched.
"""

import json
import os
import re

import tensorflow as tf

_FOLDER = re.compile(r"checkpoint-(\d+)$")
_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


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
    slot = path.rpartition("/")[2]
    owners = [p for p in names if slot.startswith(p.replace("/", "_") + "_")]
    if not owners:
        return _stable(slot)
    owner = max(owners, key=len)
    return f"{slot[len(owner) + 1 :]} of {names[owner]}"


def save(folder, method, *, keep=3, protect=(), extra=None):
    """Writes `folder/checkpoint-<step>/` atomically and prunes old ones.

    Args:
        folder: path, made if missing.
        method: a `Method` whose optimizer is set.
        keep: int >= 1, how many of the newest checkpoints stay.
        protect: paths that pruning must not remove (the best by kNN).
        extra: JSON-able dict stored with the state.

    Returns:
        The path of the new checkpoint.
    """
    variables = named_variables(method)
    step = int(method.step.numpy())
    final = os.path.join(folder, f"checkpoint-{step}")
    part = os.path.join(folder, f".part-{step}")
    _remove(part)
    tf.io.gfile.makedirs(part)
    saver = tf.train.Checkpoint(**_encoded(variables))
    saver.write(os.path.join(part, "variables"))
    state = {
        "format": _FORMAT,
        "step": step,
        "position": int(method.position.numpy()),
        "method": type(method).__name__,
        "variables": {
            name: [list(v.shape), v.dtype.name] for name, v in variables.items()
        },
        "extra": extra or {},
    }
    with tf.io.gfile.GFile(os.path.join(part, "state.json"), "w") as file:
        json.dump(state, file, indent=1)
    _remove(final)
    tf.io.gfile.rename(part, final)
    protected = {os.path.abspath(path) for path in protect if path}
    for path in all_checkpoints(folder)[:-keep]:
        if os.path.abspath(path) not in protected:
            _remove(path)
    return final


def all_checkpoints(folder):
    """Complete checkpoints of a folder, oldest first."""
    if not tf.io.gfile.isdir(folder):
        return []
    found = []
    for entry in tf.io.gfile.listdir(folder):
        match = _FOLDER.match(entry.rstrip("/"))
        if match:
            found.append((int(match.group(1)), entry.rstrip("/")))
    return [os.path.join(folder, entry) for _, entry in sorted(found)]


def latest(folder):
    """Path of the newest complete checkpoint in `folder`, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def read_state(path):
    """The `state.json` of a checkpoint folder."""
    name = os.path.join(path, "state.json")
    if not tf.io.gfile.exists(name):
        raise CheckpointError(
            f"{path} is not a tfssl checkpoint (no state.json); pass a folder "
            "named checkpoint-<step>, or a run's folder."
        )
    with tf.io.gfile.GFile(name) as file:
        return json.load(file)


def restore(path, method):
    """Restores everything: weights, slots, counters, metrics. All or nothing.

    Raises:
        CheckpointError: if any variable is missing, left over or of another
            shape; the method is then untouched.
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

    Counters, optimizer and metrics stay as they are.

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
    return sorted(loaded), unmatched


def _read(path, variables):
    reader = tf.train.Checkpoint(**_encoded(variables))
    status = reader.read(os.path.join(path, "variables"))
    status.assert_existing_objects_matched().expect_partial()


def _encoded(variables):
    # Attribute names of a tf.train.Checkpoint cannot hold a slash.
    return {name.replace("/", "|"): v for name, v in variables.items()}


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

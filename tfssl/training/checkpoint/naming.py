"""What is in a checkpoint, and under which names."""

import re

from tfssl.optimizers import slots


def named_variables(method, *, optimizer=True, constants=False):
    """Everything a run needs to continue, as `{name: tf.Variable}`.

    Not what never changes (the weights of a frozen teacher), unless `constants`.

    Names are the Keras paths, prefixed by their owner. Keras numbers names anew
    for each object made in a process (`conv2d_7`, `adam_2`); these numbers are
    taken off, and equal names are numbered in creation order, which is that of
    the architecture. A slot of the optimizer is named after its variable.
    """
    metrics = [v for metric in method.metrics for v in metric.variables]
    elsewhere = {id(v) for v in metrics}
    if not constants:
        elsewhere |= {id(v) for v in method.constants}
    own = [v for v in method.variables if id(v) not in elsewhere]
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


def key(name):
    """The name of a tensor on disk, as tf.train.Checkpoint would write it."""
    return f"{name.replace('/', '|')}/.ATTRIBUTES/VARIABLE_VALUE"

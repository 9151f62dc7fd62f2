"""What belongs to what: optimizers in others, and slots of trained variables."""

from tfssl import internals


def innermost(optimizer):
    """The optimizer whose settings hold: of a `LossScaleOptimizer` the one inside.

    Keras wraps one under `mixed_float16`, and a user may.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def owner(path, variable_paths):
    """The trained variable that a slot belongs to.

    Keras calls a slot after its variable: `adam/conv2d_kernel_momentum` is the slot
    `momentum` of `conv2d/kernel`.

    Args:
        path: `path` of a variable of the optimizer.
        variable_paths: paths of the trained variables.

    Returns:
        `(variable path, name of the slot)`; the path is None for what belongs to no
        variable (the step, the learning rate).
    """
    slot = path.rpartition("/")[2]
    owners = [p for p in variable_paths if slot.startswith(p.replace("/", "_") + "_")]
    if not owners:
        return None, slot
    found = max(owners, key=len)
    return found, slot[len(found) + 1 :]


def reset(optimizer, variables):
    """Sets the slots of some variables to zero, as in a new optimizer.

    The step of the optimizer runs on, and with it the learning rate. `AdamW` of this
    package corrects new moments for their few steps; Keras's Adam, AdamW and their like
    do not, and take steps that are too large at first.

    Args:
        optimizer: a built Keras optimizer, perhaps in a `LossScaleOptimizer`.
        variables: Keras variables that it trains.
    """
    wanted = {v.path for v in variables}
    # Among all paths: `a/kernel` would also claim the slots of `a/kernel_2`.
    paths = [v.path for v in internals.trained_variables(optimizer)]
    for slot in optimizer.variables:
        if owner(slot.path, paths)[0] in wanted:
            slot.assign(slot.value * 0)
    inner = innermost(optimizer)
    if hasattr(inner, "restart"):
        inner.restart(variables)

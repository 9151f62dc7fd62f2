"""Optimizers that are made anew, where those that are given are none to train with.

A Keras optimizer has variables from the beginning, its step among them. They belong to
the `tf.distribute` strategy in whose scope it was made: under another each replica
counts the same step, or the training fails in the middle.
"""

import inspect
import re

import keras
import numpy as np

from tfssl import internals


def made(optimizer):
    """A Keras optimizer as the one that is given, whose variables are made here.

    By its `get_config`, and with what was set on it since, as by
    `exclude_from_weight_decay`.

    Args:
        optimizer: a Keras optimizer that is not built, perhaps one that holds others.

    Returns:
        An optimizer of the same class.

    Raises:
        ValueError: if it cannot be made anew.
    """
    kind = type(optimizer)
    rate = internals.learning_rate(optimizer)
    try:
        config = optimizer.get_config()
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            anew = kind(**config | {"inner_optimizer": made(optimizer.inner_optimizer)})
        elif callable(rate):
            anew = kind.from_config(config | {"learning_rate": 0.0})
            anew.learning_rate = rate
        else:
            anew = kind.from_config(config)
    except Exception as error:
        raise _refused(kind, f"raised: {error}") from error
    _take_over(optimizer, anew)
    inner = getattr(optimizer, "optimizers", ())  # Of a `MultiOptimizer`.
    for old, new in zip(inner, getattr(anew, "optimizers", ()), strict=True):
        _take_over(old, new)
    return anew


def _take_over(optimizer, anew):
    """Gives an optimizer what its config did not tell, and the values of variables."""
    of_keras = vars(keras.optimizers.SGD(0.0))
    for name, value in vars(optimizer).items():
        others = vars(anew).get(name)
        if name in vars(anew) and (others is value or _equal(others, value)):
            continue
        if _is_plain(value):
            setattr(anew, name, value)
        elif others is None or not (name in of_keras or _is_made_by_keras(value)):
            raise _refused(type(optimizer), f"lacks {name!r}")
    for old, new in zip(optimizer.variables, anew.variables, strict=True):
        new.assign(np.array(old))


def _refused(kind, what):
    return ValueError(
        f"optimizer={kind.__name__} received, which cannot be made anew under the "
        f"strategy, since its get_config {what}; let it return every argument of the "
        "constructor."
    )


def _equal(one, other):
    """Whether these are values, and the same."""
    return _is_plain(one) and _is_plain(other) and np.array_equal(one, other)


def _is_plain(value):
    """Whether a value has nothing to do with strategies."""
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    if value is None or inspect.isroutine(value):
        return True
    kinds = (bool, int, float, str, re.Pattern, np.ndarray, np.generic)
    return isinstance(value, kinds)


def _is_made_by_keras(value):
    """Whether a value is a variable, an optimizer, or holds some."""
    made_by_keras = (keras.Variable, keras.optimizers.Optimizer)
    made_by_keras += (keras.optimizers.OptimizerMap,)
    parts = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(part, made_by_keras) for part in parts)

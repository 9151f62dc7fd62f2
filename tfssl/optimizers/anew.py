"""Optimizers that are made anew, where those that are given are none to train with.

A Keras optimizer has variables from the beginning, its step among them. They belong to
the `tf.distribute` strategy in whose scope it was made: under another each replica
counts the same step, or the training fails in the middle.
"""

import re

import keras
import numpy as np

from tfssl import internals


def made(optimizer):
    """A Keras optimizer as the one that is given, whose variables are made here.

    By its `get_config`, and with what was set on it since, as by
    `exclude_from_weight_decay`.

    Args:
        optimizer: a Keras optimizer that is not built, perhaps a `LossScaleOptimizer`.

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
    for name, value in vars(optimizer).items():
        if _is_plain(value):
            if name not in vars(anew) or vars(anew)[name] != value:
                setattr(anew, name, value)
        elif vars(anew).get(name) is None:
            raise _refused(kind, f"lacks {name!r}")
    for old, new in zip(optimizer.variables, anew.variables, strict=True):
        new.assign(np.array(old))
    return anew


def _refused(kind, what):
    return ValueError(
        f"optimizer={kind.__name__} received, which cannot be made anew under the "
        f"strategy, since its get_config {what}; let it return every argument of the "
        "constructor."
    )


def _is_plain(value):
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, re.Pattern))

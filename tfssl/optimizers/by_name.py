"""Optimizers by name, for flags and notebooks."""

import re

import keras

from tfssl.optimizers import updates
from tfssl.optimizers.lars import LARS
from tfssl.optimizers.sgd import SGD


def _lars(learning_rate, weight_decay, momentum, **excluded):
    return LARS(learning_rate, momentum=momentum, weight_decay=weight_decay, **excluded)


def _sgd(learning_rate, weight_decay, momentum, **excluded):
    return SGD(learning_rate, momentum=momentum, weight_decay=weight_decay, **excluded)


def _keras_sgd(learning_rate, weight_decay, momentum, **excluded):
    optimizer = keras.optimizers.SGD(
        learning_rate, momentum=momentum, weight_decay=weight_decay or None
    )
    return _without_decay(optimizer, **excluded)


def _adamw(learning_rate, weight_decay, momentum, **excluded):
    optimizer = keras.optimizers.AdamW(
        learning_rate, beta_1=momentum, weight_decay=weight_decay
    )
    return _without_decay(optimizer, **excluded)


def _lamb(learning_rate, weight_decay, momentum, **excluded):
    optimizer = keras.optimizers.Lamb(
        learning_rate, beta_1=momentum, weight_decay=weight_decay or None
    )
    return _without_decay(optimizer, **excluded)


OPTIMIZERS = {
    "lars": _lars,
    "sgd": _sgd,
    "keras_sgd": _keras_sgd,
    "adamw": _adamw,
    "lamb": _lamb,
}


def _without_decay(optimizer, exclude_from_decay=()):
    if exclude_from_decay:
        # Keras searches these patterns in TensorFlow's name of a variable, which
        # is its path and a suffix, as in "dense/bias:0".
        optimizer.exclude_from_weight_decay(
            var_names=[
                rf"(?:^|/){re.escape(name)}(?::\d+)?$" for name in exclude_from_decay
            ]
        )
    return optimizer


def build(
    name, *, learning_rate, weight_decay=0.0, momentum=0.9, exclude_from_decay=None
):
    """Builds the optimizer of this name.

    | name | class | weight decay |
    |---|---|---|
    | `"lars"` | `LARS` | coupled, inside the trust ratio |
    | `"sgd"` | `SGD`, as PyTorch's and the papers' | coupled (L2) |
    | `"keras_sgd"` | `keras.optimizers.SGD` | decoupled |
    | `"adamw"` | `keras.optimizers.AdamW` | decoupled, times the rate |
    | `"lamb"` | `keras.optimizers.Lamb` | decoupled, outside the trust ratio |

    Args:
        name: a name of the table.
        learning_rate: float, or a schedule such as `schedules.WarmupCosine`.
        weight_decay: float >= 0, in the optimizer's own meaning.
        momentum: float in [0, 1); for `"adamw"` and `"lamb"` it is `beta_1`.
        exclude_from_decay: names of variables without weight decay, compared
            with the last part of their path. `None`: the optimizer's default,
            bias, gamma and beta for LARS, nothing for the others.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if the name is unknown or an argument out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"Unknown optimizer {name!r}; valid names are {', '.join(OPTIMIZERS)}."
        )
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}.")
    excluded = {}
    if exclude_from_decay is not None:
        excluded["exclude_from_decay"] = updates.names(
            "exclude_from_decay", exclude_from_decay
        )
    return OPTIMIZERS[name](learning_rate, weight_decay, momentum, **excluded)

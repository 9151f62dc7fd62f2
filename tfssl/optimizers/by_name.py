"""Optimizers by name, for flags and notebooks."""

import inspect
import re

import keras

from tfssl import checks
from tfssl.optimizers import updates
from tfssl.optimizers.adamw import AdamW
from tfssl.optimizers.lamb import Lamb
from tfssl.optimizers.larc import LARC
from tfssl.optimizers.lars import LARS
from tfssl.optimizers.sgd import SGD, DecoupledSGD

OPTIMIZERS = {
    "lars": LARS,
    "larc": LARC,
    "sgd": SGD,
    "keras_sgd": DecoupledSGD,
    "adamw": AdamW,
    "lamb": Lamb,
}

# Arguments of every optimizer of Keras, which ours take among their `kwargs`.
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")

# Keras does not check them.
_BELOW_ONE = ("momentum", "beta_1", "beta_2", "ema_momentum")
_POSITIVE = ("epsilon", "loss_scale_factor", *_CLIPPING)


def _exclude(optimizer, exclude_from_decay):
    """Spares variables of an optimizer of Keras from its weight decay."""
    if exclude_from_decay:
        # Keras searches these patterns in TensorFlow's name of a variable, which
        # is its path and a suffix, as in "dense/bias:0".
        optimizer.exclude_from_weight_decay(
            var_names=[
                rf"(?:^|/){re.escape(name)}(?::\d+)?$" for name in exclude_from_decay
            ]
        )
        optimizer.excluded = {
            **optimizer.excluded,
            "exclude_from_decay": exclude_from_decay,
        }


def _with_momentum(name, known, arguments, momentum):
    """The arguments of a class, checked, with its momentum under its name there."""
    own = "momentum" if "momentum" in known else "beta_1"
    if momentum is not None and own in arguments:
        raise ValueError(
            f"momentum={momentum} and {own}={arguments[own]} received, but they are "
            f"the same of {name}; give one of them."
        )
    arguments = {own: 0.9 if momentum is None else momentum} | arguments
    checks.fraction_below_one(arguments, *(k for k in _BELOW_ONE if k in arguments))
    checks.positive(arguments, *(k for k in _POSITIVE if k in arguments), optional=True)
    return arguments


def build(
    name,
    /,
    *,
    learning_rate,
    weight_decay=0.0,
    momentum=None,
    exclude_from_decay=None,
    **arguments,
):
    """Builds the optimizer of this name.

    | name | class | weight decay |
    |---|---|---|
    | `"lars"` | `LARS` | coupled, inside the trust ratio |
    | `"larc"` | `LARC` | coupled, inside the trust ratio |
    | `"sgd"` | `SGD`, as PyTorch's and the papers' | coupled (L2) |
    | `"keras_sgd"` | `DecoupledSGD`, Keras's | decoupled |
    | `"adamw"` | `AdamW`, Keras's | decoupled, times the rate |
    | `"lamb"` | `Lamb`, Keras's | decoupled, outside the trust ratio |

    Args:
        name: a name of the table.
        learning_rate: float, or a schedule such as `schedules.WarmupCosine`.
        weight_decay: float >= 0, in the optimizer's own meaning. Of `"adamw"` also a
            schedule.
        momentum: float in [0, 1), or None for 0.9. `"adamw"` and `"lamb"` call it
            `beta_1` and take it by that name as well.
        exclude_from_decay: names of variables without weight decay, compared
            with the last part of their path (or parts, as `"logits/kernel"`). `None`:
            the optimizer's default, bias, gamma and beta for LARS, nothing for the
            others. A name that no variable has is warned of.
        **arguments: further arguments of the class, as `nesterov=True` or
            `momentum_form="adapted"` of LARS, or `clipnorm=3.0` of all: the gradient
            of each variable is cut to this length.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if the name is unknown or an argument out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"Unknown optimizer {name!r}; valid names are {', '.join(OPTIMIZERS)}."
        )
    optimizer_class = OPTIMIZERS[name]
    if not isinstance(weight_decay, keras.optimizers.schedules.LearningRateSchedule):
        checks.not_negative({"weight_decay": weight_decay}, "weight_decay")
    elif optimizer_class is not AdamW:
        raise ValueError(
            f"A weight decay that changes received with optimizer {name!r}, whose "
            "decay is one number; choose 'adamw', or leave weight_decay_final out."
        )
    checks.keywords(
        optimizer_class,
        {key: value for key, value in arguments.items() if key not in _CLIPPING},
        "optimizer_arg",
        name,
        without=("learning_rate", "name"),
    )
    known = inspect.signature(optimizer_class).parameters
    arguments = _with_momentum(name, known, arguments, momentum)
    ours = "exclude_from_decay" in known
    if exclude_from_decay is not None:
        exclude_from_decay = updates.names("exclude_from_decay", exclude_from_decay)
        if ours:
            arguments["exclude_from_decay"] = exclude_from_decay
    optimizer = optimizer_class(learning_rate, weight_decay=weight_decay, **arguments)
    if not ours:
        _exclude(optimizer, exclude_from_decay)
    return optimizer

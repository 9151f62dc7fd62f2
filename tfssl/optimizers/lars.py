"""LARS, the optimizer of SimCLR and BYOL for large batches."""

import keras
from keras import ops

from tfssl import checks, internals
from tfssl.optimizers import updates

_FORMS = ("classic", "adapted", "popular")


@keras.saving.register_keras_serializable(package="tfssl")
class LARS(updates.AdaptedMomentum):
    """Momentum SGD with a learning rate per variable, proportional to its norm.

    For variable `w`, gradient `g`, momentum slot `m` and learning rate `lr`:
    `g' = g + weight_decay * w` and `trust(x) = trust_coefficient * |w| / |x|`,
    or 1 where either norm is 0.

    | form | slot | step |
    |---|---|---|
    | `"classic"` | `m = momentum * m + lr * trust(g') * g'` | `w -= m` |
    | `"adapted"` | `m = momentum * m + trust(g') * g'` | `w -= lr * m` |
    | `"popular"` | `m = momentum * m + g'` | `w -= lr * trust(m) * m` |

    With a constant rate the first two are the same. With `nesterov`, the step
    takes `momentum * m` plus the new term in place of `m` (and `trust` of that in
    the popular form).

    A variable is recognised by the end of its `path`, part by part: `"bias"` means
    `dense/bias`, not `debias_proj/kernel`, and `"logits/kernel"` one kernel. Exclude
    from adaptation what starts at zero: a step of a share of its size hardly lets it
    grow.

    Args:
        learning_rate: float, or a schedule of `keras.optimizers.schedules`.
            SimCLR: 4.8 at batch 4096 (see `schedules.scaled_rate`). Variables
            excluded from adaptation see this rate as it is.
        momentum: float in [0, 1).
        weight_decay: float >= 0, factor of the coupled decay (an L2 penalty
            inside the trust ratio), not Keras's decoupled one. SimCLR's paper
            takes 1e-6, its README 1e-4, BYOL 1.5e-6.
        trust_coefficient: float > 0.
        momentum_form: `"classic"`, as SimCLR's code, `"adapted"`, as the code of
            BYOL and MoCo v3, or `"popular"`, the other form in SimCLR's code.
        nesterov: whether to look ahead.
        exclude_from_adaptation: names whose trust is 1. By default also the kernels
            of a classifier (`methods.Classification`), as in SimCLR's code.
        exclude_from_decay: names that get no weight decay.
        exclude_from_momentum: names whose momentum is 0.
        name: name of the optimizer.
        **kwargs: further arguments of `keras.optimizers.Optimizer`, as
            `global_clipnorm`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        You et al., 2017, https://arxiv.org/abs/1708.03888; classic form and
        defaults: google-research/simclr, lars_optimizer.py. Difference: that
        code excludes by substrings of names: "batch_normalization", "bias",
        "head_supervised".
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=1e-3,
        momentum_form="classic",
        nesterov=False,
        exclude_from_adaptation=("bias", "gamma", "beta", *updates.ZERO_STARTS),
        exclude_from_decay=("bias", "gamma", "beta"),
        exclude_from_momentum=(),
        name="lars",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            trust_coefficient=trust_coefficient,
            exclude_from_adaptation=exclude_from_adaptation,
            exclude_from_decay=exclude_from_decay,
            exclude_from_momentum=exclude_from_momentum,
            name=name,
            **kwargs,
        )
        checks.one_of({"momentum_form": momentum_form}, "momentum_form", _FORMS)
        self.momentum_form = momentum_form

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slot."""
        index = internals.variable_index(self, variable)
        rate = ops.cast(learning_rate, variable.dtype)
        value = ops.convert_to_tensor(variable)
        added = self.decayed(gradient, variable)
        if self.momentum_form != "popular":
            added = self._trust(index, value, added) * added
        if self.momentum_form == "classic":
            added = rate * added
        step = self.move(index, added)
        if self.momentum_form == "popular":
            step = self._trust(index, value, step) * step
        if self.momentum_form != "classic":
            step = rate * step
        self.assign_sub(variable, step)

    def _trust(self, index, value, direction):
        if not self._adapts[index]:
            return 1.0
        size = ops.sqrt(ops.sum(ops.square(value)))
        length = ops.sqrt(ops.sum(ops.square(direction)))
        ratio = self.trust_coefficient * size / length
        return ops.where((size > 0) & (length > 0), ratio, 1.0)

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "momentum_form": self.momentum_form,
        }

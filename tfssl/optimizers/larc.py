"""LARC, the optimizer of SwAV and DeepCluster-v2."""

import keras
from keras import ops

from tfssl import checks, internals
from tfssl.optimizers import updates


@keras.saving.register_keras_serializable(package="tfssl")
class LARC(updates.AdaptedMomentum):
    """Momentum SGD on gradients that are scaled to the size of their variable.

    For variable `w`, gradient `g`, momentum slot `m` and learning rate `lr`:
    `local = trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)`,
    `m = momentum * m + local * (g + weight_decay * w)`, `w -= lr * m`. Where `|w|` or
    `|g|` is 0 the gradient enters as it is, without weight decay: a variable whose
    gradient is switched off does not move.

    It differs from `LARS` in the denominator, `|g| + weight_decay * |w|` in place of
    `|g + weight_decay * w|`, and in that by default every variable but the kernels of a
    classifier is adapted, and every one decayed, also biases and those of batch norm.

    Args:
        learning_rate: float, or a schedule of `keras.optimizers.schedules`. SwAV: 4.8
            at batch 4096, 0.6 at 256.
        momentum: float in [0, 1).
        weight_decay: float >= 0, coupled, inside the ratio. SwAV: 1e-6.
        trust_coefficient: float > 0.
        clip: `local` becomes `min(local / lr, 1)`: the rate of a variable is `local`,
            and `lr` its bound (apex's default; solo-learn's LARS with 0.02 as
            `trust_coefficient`).
        nesterov: whether to look ahead.
        exclude_from_adaptation: names of variables (the last part or parts of
            `variable.path`, compared exactly) whose `local` is 1: those that start at
            zero, by default the kernels of a classifier (`methods.Classification`).
        exclude_from_decay: names that get no weight decay.
        exclude_from_momentum: names whose momentum is 0.
        epsilon: float > 0.
        name: name of the optimizer.
        **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        NVIDIA apex, `LARC`; with `clip=False`, as facebookresearch/swav uses it. Apex
        spares nothing from adaptation.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=1e-3,
        clip=False,
        nesterov=False,
        exclude_from_adaptation=updates.ZERO_STARTS,
        exclude_from_decay=(),
        exclude_from_momentum=(),
        epsilon=1e-8,
        name="larc",
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
        checks.positive({"epsilon": epsilon}, "epsilon")
        self.clip = clip
        self.epsilon = epsilon

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slot."""
        index = internals.variable_index(self, variable)
        plain = self.dense(gradient, variable)
        decay = self.coupled_decay if self._decays[index] else 0.0
        value = ops.convert_to_tensor(variable)
        size = ops.sqrt(ops.sum(ops.square(value)))
        length = ops.sqrt(ops.sum(ops.square(plain)))
        rate = ops.cast(learning_rate, variable.dtype)
        local = self.trust_coefficient * size / (length + decay * size + self.epsilon)
        local = ops.minimum(local / rate, 1.0) if self.clip else local
        local = local if self._adapts[index] else 1.0
        adapted = local * (plain + decay * value)
        added = ops.where((size > 0) & (length > 0), adapted, plain)
        self.assign_sub(variable, rate * self.move(index, added))

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "clip": self.clip,
            "epsilon": self.epsilon,
        }

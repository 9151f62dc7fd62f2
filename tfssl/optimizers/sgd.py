"""SGD as the papers mean it: PyTorch's, with coupled weight decay."""

import keras
from keras import ops

from tfssl.optimizers import updates


@keras.saving.register_keras_serializable(package="tfssl")
class SGD(keras.optimizers.Optimizer):
    """Momentum SGD with coupled weight decay, step for step PyTorch's.

    For variable `w`, gradient `g`, momentum slot `m` and learning rate `lr`:
    `g' = g + weight_decay * w`, `m = momentum * m + g'`, `w -= lr * m`, or with
    `nesterov` `w -= lr * (momentum * m + g')`.

    Two things differ from `keras.optimizers.SGD`: there the weight decay is
    decoupled, and the learning rate is inside the slot, so that a change of the
    rate acts on later gradients only.

    Args:
        learning_rate: float, or a schedule of `keras.optimizers.schedules`.
        momentum: float in [0, 1).
        weight_decay: float >= 0. MoCo takes 1e-4, on every variable.
        nesterov: whether to look ahead.
        exclude_from_decay: names (last part of `variable.path`, compared
            exactly) that get no weight decay. None by default, as in PyTorch.
        name: name of the optimizer.
        **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        https://pytorch.org/docs/stable/generated/torch.optim.SGD.html with
        dampening 0.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.9,
        weight_decay=0.0,
        nesterov=False,
        exclude_from_decay=(),
        name="sgd",
        **kwargs,
    ):
        # Keras's own weight_decay is decoupled: it must not act as well.
        super().__init__(learning_rate, weight_decay=None, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}.")
        self.momentum = momentum
        self.coupled_decay = weight_decay
        self.nesterov = nesterov
        self.exclude_from_decay = updates.names(
            "exclude_from_decay", exclude_from_decay
        )

    def build(self, variables):
        """Makes one momentum slot per variable and looks up its exclusion."""
        if self.built:
            return
        super().build(variables)
        self.momentums = [
            self.add_variable_from_reference(variable, name="momentum")
            for variable in variables
        ]
        self._decays = updates.flags(variables, self.exclude_from_decay)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slot."""
        index = self._get_variable_index(variable)
        slot = self.momentums[index]
        dtype = variable.dtype
        gradient = ops.cast(updates.dense(gradient), dtype)
        if self._decays[index]:
            gradient = gradient + self.coupled_decay * ops.convert_to_tensor(variable)
        moving = self.momentum * ops.convert_to_tensor(slot) + gradient
        step = self.momentum * moving + gradient if self.nesterov else moving
        self.assign(slot, moving)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * step)

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_decay,
            "nesterov": self.nesterov,
            "exclude_from_decay": self.exclude_from_decay,
        }

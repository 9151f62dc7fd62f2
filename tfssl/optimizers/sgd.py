"""SGD as the papers mean it: PyTorch's, with coupled weight decay."""

import keras
from keras import ops

from tfssl import internals
from tfssl.optimizers import updates


@keras.saving.register_keras_serializable(package="tfssl")
class SGD(updates.CoupledMomentum):
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
        exclude_from_decay: names (the last part or parts of `variable.path`,
            compared exactly) that get no weight decay. None by default, as in PyTorch.
        exclude_from_momentum: names whose momentum is 0, as that of DeepCluster's
            classifier.
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
        exclude_from_momentum=(),
        name="sgd",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            exclude_from_decay=exclude_from_decay,
            exclude_from_momentum=exclude_from_momentum,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slot."""
        index = internals.variable_index(self, variable)
        step = self.move(index, self.decayed(gradient, variable))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)


@keras.saving.register_keras_serializable(package="tfssl")
class DecoupledSGD(updates.InOnePiece, keras.optimizers.SGD):
    """`keras.optimizers.SGD`, clipping the gradient of all replicas together.

    Keras clips the part of each replica, another number than that of one device.
    """

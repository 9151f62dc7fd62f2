"""What the optimizers of this folder share."""

import logging

import keras
import tensorflow as tf
from keras import ops

from tfssl import checks, internals, pieces

# Kernels of classifiers (`Classification`, `heads.TwoTokens`). They start at zero: a
# step in proportion to their size would hardly let them grow.
ZERO_STARTS = ("logits/kernel", "of_class/kernel", "of_teacher/kernel")

# Names that may well be those of no variable of a network.
_USUAL = ("bias", "gamma", "beta", *ZERO_STARTS)


class InOnePiece(internals.UpdatedTogether):
    """Mix-in before a Keras optimizer: its update is one piece of the step.

    Attributes:
        excluded: dict, argument -> names of variables that it spares.
    """

    excluded = {}

    def build(self, variables):
        """Builds the optimizer of Keras; warns of names that no variable has."""
        if self.built:
            return
        super().build(variables)
        for argument, spared in self.excluded.items():
            missing = [
                name
                for name in spared
                if name not in _USUAL and all(flags(variables, (name,)))
            ]
            if missing:
                logging.warning(
                    "%s=%s of the optimizer spares nothing by %s: a name is how the "
                    "path of a variable ends, as in %s.",
                    argument,
                    spared,
                    ", ".join(map(repr, missing)),
                    variables[0].path,
                )

    def update_all(self, gradients, variables, learning_rate):
        """Decays and updates the variables of one replica, by their summed gradients.

        Args:
            gradients: one for each variable, as `update_step` takes it.
            variables: TensorFlow's variables of this replica.
            learning_rate: float scalar tensor.
        """

        def update(gradients, rate):
            internals.decay_weights(self, variables, rate)
            rates = self.rates(variables, rate)
            for gradient, variable, own in zip(gradients, variables, rates):
                self.update_step(gradient, variable, own)

        run = pieces.compiled(update) if pieces.wanted() else update
        run(gradients, learning_rate)

    def rates(self, variables, learning_rate):
        """The learning rate of each of these variables, here the same."""
        return [learning_rate] * len(variables)


class CoupledMomentum(InOnePiece, keras.optimizers.Optimizer):
    """A momentum slot per variable, and weight decay added to the gradient.

    Args:
        learning_rate: float, or a schedule of `keras.optimizers.schedules`.
        momentum: float in [0, 1).
        weight_decay: float >= 0, factor of the coupled decay (L2).
        nesterov: whether to look ahead.
        exclude_from_decay: names (see `names`) that get no weight decay.
        exclude_from_momentum: names whose momentum is 0.
        name: name of the optimizer.
        **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        learning_rate,
        *,
        momentum,
        weight_decay,
        nesterov,
        exclude_from_decay,
        exclude_from_momentum,
        name,
        **kwargs,
    ):
        # Keras's own weight_decay is decoupled: it must not act as well.
        super().__init__(learning_rate, weight_decay=None, name=name, **kwargs)
        checks.fraction_below_one({"momentum": momentum}, "momentum")
        checks.not_negative({"weight_decay": weight_decay}, "weight_decay")
        self.momentum = momentum
        self.coupled_decay = weight_decay
        self.nesterov = nesterov
        self.exclude_from_decay = names("exclude_from_decay", exclude_from_decay)
        self.exclude_from_momentum = names(
            "exclude_from_momentum", exclude_from_momentum
        )
        self.excluded = {
            "exclude_from_decay": self.exclude_from_decay,
            "exclude_from_momentum": self.exclude_from_momentum,
        }

    def build(self, variables):
        """Makes one momentum slot per variable and looks up its exclusions."""
        if self.built:
            return
        super().build(variables)
        self.momentums = [
            self.add_variable_from_reference(variable, name="momentum")
            for variable in variables
        ]
        # Looked up here, because update_step meets TensorFlow's bare variables,
        # which have no path.
        self._decays = flags(variables, self.exclude_from_decay)
        self._moves = flags(variables, self.exclude_from_momentum)

    def dense(self, gradient, variable):
        """The gradient as a tensor of the variable's dtype."""
        # That of an embedding comes as rows with indices.
        if isinstance(gradient, tf.IndexedSlices):
            gradient = tf.convert_to_tensor(gradient)
        return ops.cast(gradient, variable.dtype)

    def decayed(self, gradient, variable):
        """As `dense`, with weight decay."""
        gradient = self.dense(gradient, variable)
        if self._decays[internals.variable_index(self, variable)]:
            gradient = gradient + self.coupled_decay * ops.convert_to_tensor(variable)
        return gradient

    def move(self, index, added):
        """Adds to momentum slot `index`; returns the direction of the step."""
        momentum = self.momentum if self._moves[index] else 0.0
        slot = self.momentums[index]
        moving = momentum * ops.convert_to_tensor(slot) + added
        self.assign(slot, moving)
        return momentum * moving + added if self.nesterov else moving

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_decay,
            "nesterov": self.nesterov,
            "exclude_from_decay": self.exclude_from_decay,
            "exclude_from_momentum": self.exclude_from_momentum,
        }


class AdaptedMomentum(CoupledMomentum):
    """The same, whose step of a variable is in proportion to its size.

    Args:
        *args: of `CoupledMomentum`.
        trust_coefficient: float > 0.
        exclude_from_adaptation: names whose step is not.
        **kwargs: of `CoupledMomentum`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, *args, trust_coefficient, exclude_from_adaptation, **kwargs):
        super().__init__(*args, **kwargs)
        checks.positive({"trust_coefficient": trust_coefficient}, "trust_coefficient")
        self.trust_coefficient = trust_coefficient
        self.exclude_from_adaptation = names(
            "exclude_from_adaptation", exclude_from_adaptation
        )
        self.excluded["exclude_from_adaptation"] = self.exclude_from_adaptation

    def build(self, variables):
        """Makes one momentum slot per variable and looks up its exclusions."""
        super().build(variables)
        self._adapts = flags(variables, self.exclude_from_adaptation)

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "trust_coefficient": self.trust_coefficient,
            "exclude_from_adaptation": self.exclude_from_adaptation,
        }


def names(argument, value):
    """`value` as a tuple of strings.

    Args:
        argument: name of the argument, for the error.
        value: list or tuple of names of variables: the last part of their path, as
            `"bias"`, or several, as `"logits/kernel"`, each compared exactly.

    Returns:
        A tuple of str.

    Raises:
        ValueError: if `value` is a string, which would be read as its letters,
            or holds something else than parts of a path.
    """
    if isinstance(value, str) or not all(
        isinstance(name, str) and all(name.split("/")) for name in value
    ):
        raise ValueError(
            f"{argument} must be a tuple of last parts of variable paths, such as "
            f"('bias', 'logits/kernel'), got {value!r}."
        )
    return tuple(value)


def flags(variables, excluded):
    """Per variable, whether it is NOT excluded.

    Args:
        variables: Keras variables.
        excluded: names, see `names`.

    Returns:
        A list of bool in the order of `variables`.
    """
    ends = tuple(f"/{name}" for name in excluded)
    return [not f"/{variable.path}".endswith(ends) for variable in variables]

"""LAMB that does not adapt what starts at zero."""

import keras

from tfssl import internals
from tfssl.optimizers import updates


@keras.saving.register_keras_serializable(package="tfssl")
class Lamb(updates.InOnePiece, keras.optimizers.Lamb):
    """`keras.optimizers.Lamb`, but for two things.

    The kernels of a classifier (`methods.Classification`), which start at zero, move as
    those of Adam: a step of a share of their size hardly lets them grow. And clipping
    sees the gradient of all replicas; Keras clips the part of each, another number than
    that of one device.

    The arguments are those of `keras.optimizers.Lamb`.

    Reference:
        You et al., 2020, https://arxiv.org/abs/1904.00962. Difference: there everything
        is adapted.
    """

    amsgrad = False  # What the step of `keras.optimizers.Adam` asks for.

    def build(self, variables):
        """Makes Keras's slots and looks up what is adapted."""
        super().build(variables)
        self._adapts = updates.flags(variables, updates.ZERO_STARTS)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slots."""
        if self._adapts[internals.variable_index(self, variable)]:
            super().update_step(gradient, variable, learning_rate)
        else:
            keras.optimizers.Adam.update_step(self, gradient, variable, learning_rate)

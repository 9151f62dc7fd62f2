"""AdamW some of whose variables may start anew, and whose weight decay may change."""

import keras
from keras import ops

from tfssl import internals
from tfssl.optimizers import updates


@keras.saving.register_keras_serializable(package="tfssl")
class AdamW(updates.InOnePiece, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, with a step count of each variable's own.

    Adam divides its moments by `1 - beta ** steps`, since they start at 0. Keras counts
    the steps of the optimizer; a variable whose slots were set to zero in the middle of
    training (`slots.reset`, the classifier of DeepCluster) would then move up to six
    times too far for some hundred steps. Here its steps count from the reset. Until
    then every step is that of Keras, bit by bit.

    The arguments are those of `keras.optimizers.AdamW`; `weight_decay` may also be a
    schedule of `keras.optimizers.schedules`, a function of the step as that of the rate
    (DINO: from 0.04 to 0.4).
    """

    @property
    def weight_decay(self):
        """The weight decay of the step that comes, float or float scalar tensor."""
        decay = self._weight_decay
        return decay(self.iterations) if _is_schedule(decay) else decay

    @weight_decay.setter
    def weight_decay(self, value):
        self._weight_decay = value

    def get_config(self):
        """Every constructor argument."""
        config = super().get_config()
        if _is_schedule(self._weight_decay):
            config["weight_decay"] = keras.saving.serialize_keras_object(
                self._weight_decay
            )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the optimizer that `get_config` describes."""
        if isinstance(config.get("weight_decay"), dict):
            decay = keras.saving.deserialize_keras_object(
                config["weight_decay"], custom_objects=custom_objects
            )
            config = {**config, "weight_decay": decay}
        return super().from_config(config, custom_objects=custom_objects)

    def build(self, variables):
        """Makes Keras's slots, and one int64 vector: where each variable started."""
        if self.built:
            return
        super().build(variables)
        self._starts = self.add_variable(
            (len(variables),), dtype="int64", name="starts"
        )

    def restart(self, variables):
        """Lets the steps of some variables count from here; see `slots.reset`."""
        starts = self._starts.numpy().copy()
        starts[[internals.variable_index(self, v) for v in variables]] = (
            self.iterations.numpy()
        )
        self._starts.assign(starts)

    def rates(self, variables, learning_rate):
        """The learning rate of each of these variables, by its own steps."""
        steps = ops.cast(self.iterations + 1, "float32")
        own = steps - ops.cast(self._starts, "float32")
        change = self._correction(own) / self._correction(steps)
        # Exactly 1 for a variable that never started anew.
        change = ops.where(own == steps, 1.0, change)
        rates = ops.unstack(ops.cast(learning_rate, "float32") * change)
        return [rates[internals.variable_index(self, v)] for v in variables]

    def _correction(self, steps):
        first, second = (ops.power(b, steps) for b in (self.beta_1, self.beta_2))
        return ops.sqrt(1 - second) / (1 - first)


def _is_schedule(value):
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)

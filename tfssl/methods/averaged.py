"""What methods share whose product is a moving average of the weights."""

import tensorflow as tf

from tfssl import ema
from tfssl.methods import base


class Averaged(base.Method):
    """A method with the setting `averaging`, the momentum of such an average, or 0.

    A subclass calls `average_of` at the end of its constructor.

    Attributes:
        average: `ema.TargetNetwork` of the networks that learn, or None.
    """

    def average_of(self, *networks):
        """Averages these networks, whose output is the next one's input."""
        # A function: they are parts of the method already.
        self._learning = lambda: networks
        self.average = None
        if self.averaging:
            self.average = ema.TargetNetwork(*networks, name="average", statistics=True)

    def networks(self, training):
        """The networks that learn, or in inference those that leave the training.

        Args:
            training: bool.

        Returns:
            A tuple, as `average_of` was given.
        """
        if training or self.average is None:
            return self._learning()
        return tuple(self.average.networks)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        if self.average is not None:
            made = tf.cast(self.step, tf.float32)  # This step among them.
            self.average.update(tf.minimum(self.averaging, made / (9 + made)))
        return values

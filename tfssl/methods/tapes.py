"""What a training step computes, as its gradient is taken."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass
class Recording:
    """What `Method.recording` has seen.

    Attributes:
        tape: the gradient tape.
        penalties: list of float32 scalar tensors, the penalty terms of the layers
            (kernel regularizers), once the recording has ended.
    """

    tape: tf.GradientTape
    penalties: list = dataclasses.field(default_factory=list)

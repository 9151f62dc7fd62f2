"""The largest gradient of an epoch: what shows that a training is unstable."""

import tensorflow as tf

from tfssl import replicas


class GradientWatch:
    """Notes the largest absolute value in the gradients since an epoch began.

    The gradients are those of the mean over the global batch, with penalties and before
    any clipping: equal at any number of replicas but for rounding, and without the
    scale of `mixed_float16`. A step whose gradients overflowed there is left out, as
    it is by the optimizer.

    It costs a pass over the gradients, and with several replicas also an exchange of
    all of them, beside that of the optimizer, which keeps its sums to itself.

    Args:
        steps_per_epoch: int, after so many steps it begins anew.
        largest: float, of the steps of an epoch that was interrupted.

    Attributes:
        largest: float32 variable, one on every replica, all of the same value.
    """

    def __init__(self, steps_per_epoch, largest=0.0):
        self.steps_per_epoch = steps_per_epoch
        self.largest = tf.Variable(largest, trainable=False, dtype=tf.float32)

    def see(self, gradients, step, scale):
        """Takes the gradients of a step, on each replica.

        Args:
            gradients: list of tensors, to be summed over replicas, and None of
                variables that the loss does not depend on.
            step: integer scalar, the number of this step, from 0.
            scale: float32 scalar, by which the loss was multiplied.
        """
        given = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        # As they come they may be of several dtypes.
        sums = replicas.sum_of_each([tf.cast(g, tf.float32) for g in given])
        found = tf.reduce_max(tf.stack([_largest(g) for g in sums]))
        found = tf.where(tf.math.is_finite(found), found / scale, 0.0)
        begins = step % self.steps_per_epoch == 0
        before = tf.where(begins, 0.0, tf.convert_to_tensor(self.largest))
        self.largest.assign(tf.maximum(before, found))


def _largest(gradient):
    sizes = tf.abs(gradient)
    # XLA's maximum passes over what is no number.
    return tf.reduce_max(tf.where(tf.math.is_finite(sizes), sizes, float("inf")))

"""The scale that keeps gradients of half precision from becoming zeros."""

import keras
import numpy as np
import tensorflow as tf

from tfssl import internals, replicas


def scaled(optimizer, model):
    """An optimizer, in a `LossScaleOptimizer` where a model learns in float16.

    Keras asks the policy of the model alone, and not that of the networks inside of
    it, which may come from a file.

    Args:
        optimizer: a Keras optimizer, or its name.
        model: Keras model.
    """
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    learns_in_halves = any(
        layer.compute_dtype == "float16" and layer.trainable_variables
        for layer in internals.layers_of(model)
    )
    if not learns_in_halves:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def agreed(optimizer, gradients):
    """The gradients of a replica, which tell of an overflow on any of them.

    `LossScaleOptimizer` looks at those of the first replica of each process alone: of
    others it would add what is infinite, and workers that disagree would wait for ever.

    Args:
        optimizer: the Keras optimizer that will get them.
        gradients: list of tensors, to be summed over replicas, and None of variables
            that the loss does not depend on.

    Returns:
        The same list; where a value of some replica is not finite, and the optimizer
        scales the loss, the first tensor is infinite on all.
    """
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not scales or replicas.num_replicas() == 1:
        return gradients
    given = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    finite = tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in given])
    bad = 1.0 - tf.cast(tf.reduce_all(finite), tf.float32)
    overflowed = replicas.sum_over_replicas(bad) > 0
    first = next(i for i, g in enumerate(gradients) if g is not None)
    told = tf.where(overflowed, tf.constant(np.inf, given[0].dtype), given[0])
    return [*gradients[:first], told, *gradients[first + 1 :]]

"""The scale that keeps gradients of half precision from becoming zeros."""

import keras

from tfssl import internals


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

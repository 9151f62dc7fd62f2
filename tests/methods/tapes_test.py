import keras
import numpy as np
import tensorflow as tf

from tests.methods.case_table import SIZE
from tests.methods.cases import batches, train
from tfssl import methods


def test_penalties_of_the_encoder_count_once(mirrored):
    """L2 of a kernel adds its gradient once, whatever the number of replicas."""

    def build(strength):
        inputs = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        regularizer = keras.regularizers.L2(strength) if strength else None
        x = keras.layers.Dense(8, kernel_regularizer=regularizer)(x)
        return keras.Model(inputs, x)

    kernels = {}
    for strength, replicas in ((0.0, 1), (0.1, 1), (0.1, 2)):
        strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
        with strategy.scope():
            keras.utils.set_random_seed(1)
            method = methods.SimCLR(build(strength), projection_dim=4)
            method.compile(keras.optimizers.SGD(0.1))
            start = np.array(method.encoder.trainable_variables[0])
        train(method, batches("simclr", 1), steps=1, strategy=strategy)
        kernels[strength, replicas] = np.array(method.encoder.trainable_variables[0])
    # SGD: the penalty 0.1 * |w|^2 moves w by -0.1 * 0.2 * w.
    difference = kernels[0.1, 1] - kernels[0.0, 1]
    np.testing.assert_allclose(difference, -0.02 * start, atol=1e-5)
    np.testing.assert_allclose(kernels[0.1, 2], kernels[0.1, 1], atol=1e-5)

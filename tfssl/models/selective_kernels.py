"""Selective kernels: two streams of one convolution, mixed image by image.

The layers around the mixing are those of `residual`; these two have no variables.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfssl")
class PoolStreams(keras.layers.Layer):
    """The mean over height and width of the sum of two streams.

    Input shape:
        `(batch, height, width, 2 * filters)`, the first stream's channels first.

    Output shape:
        `(batch, 1, 1, filters)`.
    """

    def call(self, inputs):
        # Means first: they are few.
        return sum(ops.split(ops.mean(inputs, axis=(1, 2), keepdims=True), 2, axis=-1))

    def compute_output_shape(self, input_shape):
        """One pixel, and half of the channels."""
        return (input_shape[0], 1, 1, input_shape[-1] // 2)


@keras.saving.register_keras_serializable(package="tfssl")
class MixStreams(keras.layers.Layer):
    """Two streams, weighted per image and channel by a softmax over the two.

    Input shape:
        A list of the streams, `(batch, height, width, 2 * filters)`, and their scores,
        `(batch, 1, 1, 2 * filters)`, both with the first stream's channels first.

    Output shape:
        `(batch, height, width, filters)`.
    """

    def call(self, inputs):
        streams, scores = inputs
        first, second = ops.split(streams, 2, axis=-1)
        for_first, for_second = ops.split(scores, 2, axis=-1)
        share = ops.sigmoid(for_first - for_second)  # The softmax of two.
        return share * first + (1 - share) * second

    def compute_output_shape(self, input_shape):
        """The streams' shape with half of the channels."""
        streams, _ = input_shape
        return (*streams[:-1], streams[-1] // 2)

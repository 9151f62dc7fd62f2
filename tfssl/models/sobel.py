"""A fixed edge filter in front of an encoder."""

import keras
import numpy as np
from keras import ops

# Rows of the kernel of horizontal changes; its transpose finds vertical ones.
_HORIZONTAL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)


@keras.saving.register_keras_serializable(package="tfssl")
class Sobel(keras.layers.Layer):
    """Horizontal and vertical edges of the mean over the channels.

    Takes colour out of reach of an encoder that would cluster by it. Goes behind the
    normalization of the images; outside of them are zeros. It has no variables.

    Input shape:
        `(batch, height, width, channels)`, any number of channels from 1.

    Output shape:
        `(batch, height, width, 2)`: the mean over the channels, correlated with the
        rows (1, 0, -1), (2, 0, -2), (1, 0, -1), and with (1, 2, 1), (0, 0, 0),
        (-1, -2, -1).

    Reference:
        Caron et al., 2018, https://arxiv.org/abs/1807.05520, section 3.3, and its
        code (`models/alexnet.py`): there a mean of three channels as a frozen
        convolution, here of any number.
    """

    def call(self, inputs):
        gray = ops.mean(inputs, axis=-1, keepdims=True)
        kernels = np.stack([_HORIZONTAL, _HORIZONTAL.T], axis=-1)[:, :, np.newaxis]
        kernels = ops.convert_to_tensor(kernels, dtype=gray.dtype)
        return ops.conv(gray, kernels, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        """The input's with two channels."""
        return (*input_shape[:-1], 2)

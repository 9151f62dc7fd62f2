"""What a tokenizer compares with pixels: maps from [0, 1] to where a density lives."""

import keras
from keras import ops

# Keeps logit(x) within 2.2 of 0.
EPSILON = 0.1
# Numbers that the decoder gives for each channel of a pixel, by likelihood.
OUTPUTS = {"logit_laplace": 2, "mse": 1}


def mapped(images, epsilon=EPSILON):
    """Images in [0, 1] -> `[epsilon, 1 - epsilon]`, by a line."""
    return (1 - 2 * epsilon) * images + epsilon


def unmapped(values, epsilon=EPSILON):
    """The inverse of `mapped`, of values beyond the nearest end."""
    return ops.clip((values - epsilon) / (1 - 2 * epsilon), 0.0, 1.0)


def pictures(outputs, likelihood):
    """Images in [0, 1] of what a decoder gives.

    Args:
        outputs: float `(…, n)`: with `"mse"` the channels' values; with
            `"logit_laplace"` their means of `logit(x)`, and then as many logarithms of
            their scales.
        likelihood: a key of `OUTPUTS`.
    """
    if likelihood == "mse":
        return ops.clip(outputs, 0.0, 1.0)
    channels = outputs.shape[-1] // OUTPUTS[likelihood]
    return unmapped(ops.sigmoid(outputs[..., :channels]))


@keras.saving.register_keras_serializable(package="tfssl")
class PixelMap(keras.layers.Layer):
    """Images in [0, 1] -> [0.1, 0.9], as DALL-E's networks see them. No variables.

    Attributes:
        plain_images: True, it takes images in [0, 1] that no recipe has normalised.

    Reference:
        Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, appendix A.3.
    """

    plain_images = True

    def __init__(self, *, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, autocast=False, **kwargs)

    def call(self, images):
        return mapped(ops.cast(images, self.compute_dtype))

    def compute_output_shape(self, shape):
        """The input's."""
        return shape

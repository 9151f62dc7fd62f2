"""What every method asks of its encoder."""

import keras
from absl import logging

from tfssl.models import image_format, input_range


def check(encoder):
    """Raises `ValueError` unless a method can train this Keras model, see `Method`."""
    image_format.check()
    if not isinstance(encoder, keras.Model) or not encoder.built:
        raise ValueError(
            f"encoder={encoder!r} is not a built Keras model; pass one made with "
            "an input shape, for example tfssl.models.encoder('resnet18')."
        )
    shape = getattr(encoder, "output_shape", None)
    if shape is None:
        raise ValueError(
            f"The encoder {encoder.name!r} ({type(encoder).__name__}) is no graph of "
            "layers and has no output_shape, expected (batch, dim); wrap it: inputs = "
            "keras.Input(shape); encoder = keras.Model(inputs, model(inputs))."
        )
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            f"The encoder's output shape is {shape}, expected (batch, dim): end it "
            "with global pooling (keras.applications: pooling='avg')."
        )
    white = input_range.white(encoder)
    if white != 1:
        logging.warning(
            "The encoder %s takes pixels from 0 to %d (it rescales them itself, or "
            "takes whole numbers), but views are in [0, 1] or normalised: use "
            "tfssl.models.input_range.with_pixels, unless your data differ.",
            encoder.name,
            white,
        )

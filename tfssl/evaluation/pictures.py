"""Pictures inside an HTML file."""

import base64

import numpy as np
import tensorflow as tf


def data_url(image):
    """A picture as a data URL.

    Args:
        image: PNG bytes, or an array of pixels `(height, width[, channels])`, uint8 or
            uint16. Of 2, 5 or more channels the first one or three are shown.

    Raises:
        ValueError: for another dtype.
    """
    if not isinstance(image, bytes):
        image = np.asarray(image)
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"Images of a report are uint8 or uint16, got {image.dtype}; scale "
                "and round them first."
            )
        image = image[..., np.newaxis] if image.ndim == 2 else image
        if image.shape[-1] not in (1, 3, 4):
            image = image[..., : 3 if image.shape[-1] > 3 else 1]
        image = tf.io.encode_png(image).numpy()
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")

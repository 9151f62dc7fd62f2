"""Pictures inside an HTML file, and sheets of many."""

import base64

import numpy as np
import tensorflow as tf

_ROW, _GAP = 8, 2  # Columns of a sheet, and pixels between them.


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


def sheet(stacks):
    """Pictures above each other, side by side.

    Args:
        stacks: float array `(n, k, height, width, channels)` of values in [0, 1]: `k`
            pictures that belong together, the first on top. Of other than 1 or 3
            channels the first is shown.

    Returns:
        uint8 pixels `(h, w, 1 or 3)`, eight stacks in a row.
    """
    pixels = np.round(255 * np.clip(stacks, 0, 1)).astype(np.uint8)
    pixels = pixels if pixels.shape[-1] in (1, 3) else pixels[..., :1]
    wide = [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)]
    pixels = np.pad(pixels, wide, constant_values=255)
    empty = -len(pixels) % _ROW
    pixels = np.pad(pixels, [(0, empty)] + [(0, 0)] * 4, constant_values=255)
    _, k, height, width, channels = pixels.shape
    rows = pixels.reshape(-1, _ROW, k, height, width, channels)
    return rows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, _ROW * width, channels)

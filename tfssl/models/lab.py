"""Colour spaces that part brightness from colour, and layers in front of an encoder."""

import keras
import numpy as np
from keras import ops

# sRGB to XYZ and the white of D65 (2 degrees), as scikit-image has them.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
# ITU-R BT.601, studio range: 16 to 235 and 16 to 240.
_YCBCR = np.array(
    [
        [65.481, 128.553, 24.966],
        [-37.797, -74.203, 112.0],
        [112.0, -93.786, -18.214],
    ]
)
_COLORS = 3


def rgb_to_lab(images):
    """CIE L*a*b* of sRGB images, under D65.

    Args:
        images: float `(…, 3)`, sRGB in [0, 1]; a tensor of any backend of Keras.

    Returns:
        Of the same shape, float32 (float64 of float64): L from 0 to 100, a from
        -86.2 to 98.3, b from -107.9 to 94.5. Equal to scikit-image's `rgb2lab`.
    """
    images = _wide(images)
    linear = ops.where(
        images > 0.04045,
        # The floor keeps the branch that is not taken finite, and its gradient.
        ((ops.maximum(images, 0.04045) + 0.055) / 1.055) ** 2.4,
        images / 12.92,
    )
    xyz = _product(linear, _XYZ / _WHITE[:, np.newaxis])
    cubic = ops.maximum(xyz, 0.008856) ** (1 / 3)
    f = ops.where(xyz > 0.008856, cubic, 7.787 * xyz + 16 / 116)
    x, y, z = ops.split(f, 3, axis=-1)
    return ops.concatenate([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def rgb_to_ycbcr(images):
    """Y'CbCr (ITU-R BT.601, studio range) of sRGB images.

    Args:
        images: as for `rgb_to_lab`.

    Returns:
        Of the same shape, float32 (float64 of float64): Y from 16 to 235, Cb and Cr
        from 16 to 240. Equal to scikit-image's `rgb2ycbcr`.
    """
    images = _wide(images)
    offsets = ops.convert_to_tensor([16.0, 128.0, 128.0], dtype=images.dtype)
    return _product(images, _YCBCR) + offsets


def _wide(images):
    images = ops.convert_to_tensor(images)
    kind = keras.backend.standardize_dtype(images.dtype)
    return images if kind == "float64" else ops.cast(images, "float32")


def _product(images, matrix):
    """`matrix` times every pixel, as sums: no device rounds them to fewer digits."""
    channels = ops.split(images, matrix.shape[1], axis=-1)
    rows = [sum(float(w) * c for w, c in zip(row, channels)) for row in matrix]
    return ops.concatenate(rows, axis=-1)


class _Colors(keras.layers.Layer):
    """RGB to another colour space, normalised; further channels stay as they are.

    Attributes:
        plain_images: True, it takes images in [0, 1] that no recipe has normalised.
    """

    plain_images = True
    mean = std = ()

    def __init__(self, *, dtype="float32", **kwargs):
        # Small differences of large values: no half precision reaches them.
        super().__init__(dtype=dtype, autocast=False, **kwargs)

    def call(self, inputs):
        inputs = _wide(inputs)
        mean, std = (
            ops.convert_to_tensor(np.array(v), dtype=inputs.dtype)
            for v in (self.mean, self.std)
        )
        colors = (self._convert(inputs[..., :_COLORS]) - mean) / std
        if inputs.shape[-1] == _COLORS:
            return colors
        return ops.concatenate([colors, inputs[..., _COLORS:]], axis=-1)

    def build(self, input_shape):
        if input_shape[-1] < _COLORS:
            raise ValueError(
                f"Images of {input_shape[-1]} channel(s) received for "
                f"{type(self).__name__}, which takes red, green and blue; give colour "
                "images, or views of their own channels without it (color='rgb')."
            )

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@keras.saving.register_keras_serializable(package="tfssl")
class Lab(_Colors):
    """CIE L*a*b* of RGB, every channel at about [-1, 1]. It has no variables.

    Input shape:
        `(batch, height, width, channels)`, channels from 3: sRGB in [0, 1], then any.

    Output shape:
        The same: L, a and b, minus (50, 6.025, -6.6895), over (50, 92.208, 101.1675),
        then the further channels unchanged; float32 under mixed precision too.

    Reference:
        Tian et al., 2019, https://arxiv.org/abs/1906.05849, and its code
        (HobbitLong/CMC, `train_CMC.py`), which converts with scikit-image on the host.
    """

    mean = (50.0, 6.025, -6.6895)
    std = (50.0, 92.208, 101.1675)
    _convert = staticmethod(rgb_to_lab)


@keras.saving.register_keras_serializable(package="tfssl")
class YCbCr(_Colors):
    """Y'CbCr of RGB, every channel at about [-1, 1]. It has no variables.

    Input shape:
        As of `Lab`.

    Output shape:
        The same: Y, Cb and Cr, minus (116.151, 121.080, 132.342), over (109.500,
        111.855, 111.964), then the further channels unchanged; float32 under mixed
        precision too.

    Reference:
        As of `Lab`.
    """

    mean = (116.151, 121.080, 132.342)
    std = (109.500, 111.855, 111.964)
    _convert = staticmethod(rgb_to_ycbcr)

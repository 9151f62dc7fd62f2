"""The one evaluation path: decode, central crop, resize, scale, normalise."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfssl import checks
from tfssl.data.sources import decoding
from tfssl.data.views import image_ops


def _per_channel(values, channels, name):
    values = image_ops.as_numbers(values, name)
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise ValueError(
            f"Preprocessing got {len(values)} values of {name} for {channels} "
            f"channels; give one per channel, or one number for all."
        )
    return values


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What an encoder expects of its input, as plain numbers.

    kNN, probes, fine-tuning and the exported signatures all call this object, so
    that an image reaches the encoder by one path only. Everything runs inside a
    graph and is deterministic.

    Attributes:
        size: side in pixels of the square result.
        channels: channels of the result.
        max_value: the raw value that stands for 1.0: 255 for 8-bit images, 65535
            for 16-bit, 1.0 for floating images in [0, 1].
        crop: side of the central square that is kept, as a fraction of the
            image's shorter side; 1.0 keeps the whole image, whose aspect ratio is
            then not kept.
        resize: `"bilinear"` or `"bicubic"`.
        antialias: whether the filter widens when the image shrinks.
        mean: per channel (or one number), subtracted after scaling to [0, 1].
        std: per channel (or one number), divides after that.
    """

    size: int
    channels: int = 3
    max_value: float = 255.0
    crop: float = 1.0
    resize: str = "bilinear"
    antialias: bool = False
    mean: tuple = 0.0
    std: tuple = 1.0

    def __post_init__(self):
        given = vars(self)
        checks.whole(given, "size", "channels")
        checks.within(given, checks.Above(0, 1), "crop")
        checks.positive(given, "max_value")
        image_ops.check_resize(self.resize)
        for name in ("mean", "std"):
            values = _per_channel(getattr(self, name), self.channels, name)
            object.__setattr__(self, name, values)
        image_ops.check_normalization(self.mean, self.std)

    @property
    def image_dtype(self):
        """Dtype of a decoded file: uint16 for 16-bit data, else uint8."""
        return tf.uint16 if self.max_value > 255 else tf.uint8

    @property
    def side(self):
        """Pixels of an image's shorter side that the result has a use for."""
        return math.ceil(self.size / self.crop)

    def decode(self, encoded, side=None):
        """Decodes a scalar string to `(h, w, channels)`, see `decoding.decode`.

        The values are in [0, `max_value`]: uint8, uint16 (files of 8 bits are
        stretched), or float32 where the encoder was made for images in [0, 1].
        """
        image = decoding.decode(encoded, self.channels, self.image_dtype, side)
        if self.max_value in (255, 65535):
            return image
        return tf.cast(image, tf.float32) * (self.max_value / self.image_dtype.max)

    def raw(self):
        """The same geometry, with pixel values in the range of `image_dtype`."""
        return dataclasses.replace(self, mean=0.0, std=1.0 / self.image_dtype.max)

    def apply(self, image):
        """Crops, resizes, scales and normalises one image.

        Args:
            image: `(height, width, channels)`, with values in [0, `max_value`], also of
                a floating dtype: up to 255, and not to 1, where `max_value` is 255.
                uint8 and uint16 are those of 8 and 16 bits; another integer dtype has
                the range of `max_value`.

        Returns:
            float32 `(size, size, channels)`.

        Raises:
            ValueError: for several images, other channels, uint8 where `max_value` is
                not 255, uint16 where it is not 65535, any integers where it is 1 or
                less, or an image known to be empty.
        """
        image = tf.convert_to_tensor(image)
        if image.shape.rank not in (None, 3):
            raise ValueError(
                f"Preprocessing takes one image (height, width, channels), got the "
                f"shape {image.shape}; apply it before images are batched "
                "(dataset.map(…).batch(…))."
            )
        if image.shape.rank == 3 and image.shape[-1] not in (None, self.channels):
            raise ValueError(
                f"Preprocessing for {self.channels} channels got an image of "
                f"{image.shape[-1]}."
            )
        if 0 in image.shape:
            raise ValueError(f"An image of shape {image.shape} has no pixels.")
        self._check_range(image.dtype)
        if self.crop < 1.0:
            shape = tf.shape(image)[:2]
            shorter = tf.cast(tf.reduce_min(shape), tf.float32)
            side = tf.maximum(tf.cast(tf.round(shorter * self.crop), tf.int32), 1)
            top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
            image = image[top : top + side, left : left + side]
        if image.dtype not in (tf.uint8, tf.uint16, tf.float32):
            image = tf.cast(image, tf.float32)
        out = image_ops.resize(image, self.size, self.resize, self.antialias)
        out = tf.ensure_shape(out, [self.size, self.size, self.channels])
        # Bicubic filters overshoot; no image lies outside its range.
        return self.normalize(tf.clip_by_value(out / self.max_value, 0.0, 1.0))

    def _check_range(self, dtype):
        if dtype in (tf.uint8, tf.uint16):
            fits = dtype.max == self.max_value
        else:
            fits = not dtype.is_integer or self.max_value > 1
        if not fits:
            bits = {255: 8, 65535: 16}.get(self.max_value)
            opened = f", or open the data with bit_depth={bits}" if bits else ""
            raise ValueError(
                f"Preprocessing for values up to {self.max_value:g} got an image of "
                f"{dtype.name}; convert it to floats from 0 to {self.max_value:g}"
                f"{opened}."
            )

    def apply_encoded(self, encoded):
        """`decode`, then `apply`; large JPEG files are decoded smaller, see `side`."""
        return self.apply(self.decode(encoded, self.side))

    def normalize(self, images):
        """`(images - mean) / std` for float images in [0, 1], any rank."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        if not mean.any() and (std == 1).all():
            return images
        return (images - mean) / std

    def get_config(self):
        """The fields as a dict that JSON can hold."""
        config = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in config.items()
        }

    @classmethod
    def from_config(cls, config):
        """The inverse of `get_config`."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ValueError(
                f"Preprocessing does not know the settings {', '.join(unknown)}; "
                f"it knows {', '.join(sorted(known))}."
            )
        return cls(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        )

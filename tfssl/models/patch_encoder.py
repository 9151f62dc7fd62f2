"""An encoder that sees an image as a grid of patches, each by itself."""

import keras
from keras import ops

from tfssl.data import patches
from tfssl.models import composed


class _OfEachPatch(keras.layers.Layer):
    """Images -> the features of their patches, `(batch, rows, columns, dim)`."""

    def __init__(self, encoder, patch, stride, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.patch = patch
        self.stride = stride
        self.built = True

    def call(self, images, training=False):
        return self.encode(patches.cut(images, self.patch, self.stride), training)

    def encode(self, cells, training):
        """As `PatchEncoder.encode`."""
        lead = ops.shape(cells)[:3]
        flat = ops.reshape(cells, (-1, *cells.shape[3:]))
        features = self.encoder(flat, training=training)
        return ops.reshape(features, (*lead, features.shape[-1]))

    def compute_output_shape(self, shape):
        sides = (
            length and patches.count_along(length, self.patch, self.stride)
            for length in shape[1:3]
        )
        return (shape[0], *sides, self.encoder.output_shape[-1])


@keras.saving.register_keras_serializable(package="tfssl")
class PatchEncoder(keras.Model):
    """An encoder of images whose features are the mean over the grid of their patches.

    Every patch is encoded by itself: nothing of its neighbours enters it, but for the
    pixels that they share.

    Args:
        encoder: a built Keras model, patches -> features `(batch, dim)`, for patches of
            any size. Batch norm would let patches of an image tell each other apart
            from those of others; take `norm="layer"`.
        patch: int, pixels of a patch's side.
        stride: int, pixels from one patch to the next; less than `patch` for patches
            that overlap.
        image_shape: `(height, width, channels)`; sides may be None.
        name: optional name; None takes `"patches_of_"` and the encoder's.

    Attributes:
        encoder: as given.
        grid_shape: `(rows, columns)`, or None for images of unknown size.
        stage_outputs: a dict of one Keras tensor, `"grid"`: the features of the patches
            `(batch, rows, columns, dim)`, whose mean the features of the image are.

    Raises:
        ValueError: for patches that are larger than the image, or leave no grid.

    Reference:
        Hénaff et al., 2019, https://arxiv.org/abs/1905.09272 (CPC v2), section 3.
    """

    def __init__(self, encoder, *, patch, stride, image_shape, name=None):
        self.grid_shape = None
        if None not in image_shape[:2]:
            self.grid_shape = patches.grid_of(*image_shape[:2], patch, stride)
        wide = "float64" if encoder.compute_dtype == "float64" else "float32"
        inner = _OfEachPatch(encoder, patch, stride, dtype=wide, name="grid")
        images = keras.Input(tuple(image_shape), name="images")
        grid = inner(images)
        features = keras.layers.GlobalAveragePooling2D(dtype=wide, name="features")
        super().__init__(
            images, features(grid), name=name or f"patches_of_{encoder.name}"
        )
        self.encoder = encoder
        self.patch = patch
        self.stride = stride
        self.image_shape = tuple(image_shape)
        self.stage_outputs = {"grid": grid}
        self.dtype_policy = encoder.dtype_policy

    def cut(self, images):
        """Images -> their patches `(batch, rows, columns, patch, patch, channels)`."""
        return patches.cut(images, self.patch, self.stride)

    def encode(self, cells, training=False):
        """The features of patches.

        Args:
            cells: float `(batch, rows, columns, side, side, channels)`, of any side.
            training: bool.

        Returns:
            float32 `(batch, rows, columns, dim)`.
        """
        return self.get_layer("grid").encode(cells, training)

    def grid(self, images, training=False):
        """Images -> the features of their patches `(batch, rows, columns, dim)`."""
        return self.encode(self.cut(images), training)

    def get_config(self):
        """Every constructor argument."""
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "patch": self.patch,
            "stride": self.stride,
            "image_shape": list(self.image_shape),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**config | {"encoder": encoder})


def builder(encoders):
    """A function that builds a `PatchEncoder` of an encoder by its name.

    Args:
        encoders: dict of name to builder, of networks that take images of any size and
            know `norm`.
    """

    def build(
        *, input_shape, of="resnet18", patch=80, stride=36, norm="layer", name=None,
        **more,
    ):  # fmt: skip
        """An encoder of overlapping patches.

        Args:
            input_shape: `(height, width, channels)` of the images.
            of: name of the encoder that every patch passes.
            patch: int, side of a patch in pixels.
            stride: int, pixels from a patch to the next.
            norm: of that encoder; batch norm would tell patches of one another.
            name: name of the model.
            **more: further arguments of that encoder, as `width=0.25`.
        """
        composed.check(encoders, of, more)
        inner = encoders[of](
            input_shape=(None, None, input_shape[-1]), norm=norm, **more
        )
        return PatchEncoder(
            inner, patch=patch, stride=stride, image_shape=input_shape, name=name
        )

    return composed.with_arguments_of(encoders, build)

"""Surface normals of a depth map, and a layer in front of an encoder."""

import keras
from keras import ops


def depth_to_normals(depth, *, focal=1.0):
    """The directions that surfaces face, of the distances seen by a pinhole camera.

    Every pixel is a point of space; the normal is the cross product of the steps to
    its neighbours along the rows and the columns (half the step between both; at the
    border to the one that is there). Where depth jumps, it belongs to no surface.

    Args:
        depth: float `(batch, height, width, 1)`, distance along the axis of the
            camera, in any unit, from 0: a multiple changes nothing, an offset does.
        focal: float > 0, focal length in image widths, 1 for a view of 53 degrees. The
            axis goes through the image's middle.

    Returns:
        float32 `(batch, height, width, 3)` of length 1 (0 where all depth is): right,
        down, and away from the camera; a wall that faces it has (0, 0, -1).
    """
    depth = ops.cast(depth, "float32")
    height, width = ops.shape(depth)[1:3]
    scale = focal * ops.cast(width, "float32")
    x = (ops.cast(ops.arange(width), "float32") + 0.5 - width / 2) / scale
    y = (ops.cast(ops.arange(height), "float32") + 0.5 - height / 2) / scale
    points = (depth * x[:, None], depth * y[:, None, None], depth)
    points = ops.concatenate(points, axis=-1)
    normals = ops.cross(_steps(points, 1), _steps(points, 2))
    square = ops.sum(ops.square(normals), axis=-1, keepdims=True)
    # The smallest that is there: float32 ends at 1e-38.
    return normals / ops.sqrt(ops.maximum(square, 1e-30))


def _steps(points, axis):
    """Central differences along an axis, one-sided at its ends."""
    before = [slice(None)] * 4
    after = [slice(None)] * 4
    before[axis], after[axis] = slice(None, 1), slice(-1, None)
    padded = ops.concatenate([points[*before], points, points[*after]], axis=axis)
    before[axis], after[axis] = slice(None, -2), slice(2, None)
    return padded[*after] - padded[*before]


@keras.saving.register_keras_serializable(package="tfssl")
class Normals(keras.layers.Layer):
    """Appends the surface normals of a channel that holds depth. No variables.

    They are those of the view: of a mirrored one mirrored, which normals that are
    stored beside an image would not be.

    Args:
        channel: int >= 0, the channel that is depth.
        focal: see `depth_to_normals`.
        dtype: dtype policy of the layer.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, height, width, channels + 3)`, float32 under mixed precision too.
    """

    def __init__(self, channel, *, focal=1.0, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        if not (isinstance(focal, int | float) and focal > 0):
            raise ValueError(f"focal={focal!r} received, expected a number above 0.")
        self.channel = channel
        self.focal = focal

    def build(self, input_shape):
        if self.channel not in range(input_shape[-1]):
            raise ValueError(
                f"Normals of channel {self.channel!r} asked for, but the images have "
                f"channels 0 to {input_shape[-1] - 1}; name the one that is depth."
            )

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)
        depth = inputs[..., self.channel : self.channel + 1]
        normals = depth_to_normals(depth, focal=self.focal)
        normals = ops.cast(normals, inputs.dtype)
        return ops.concatenate([inputs, normals], axis=-1)

    def compute_output_shape(self, input_shape):
        """The input's with three more channels."""
        return (*input_shape[:-1], input_shape[-1] + 3)

    def get_config(self):
        return {**super().get_config(), "channel": self.channel, "focal": self.focal}

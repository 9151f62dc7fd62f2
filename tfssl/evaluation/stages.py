"""The stages of an encoder: its named feature maps, for probes and retrieval."""

import keras
import numpy as np
import tensorflow as tf

from tfssl import internals
from tfssl.models import feature_maps

# The papers' maps are pooled to about this many numbers.
LIMIT = 10_000


def names(encoder):
    """The names of an encoder's stages, from the input on.

    Raises:
        ValueError: if the encoder names none.
    """
    return tuple(feature_maps.stages_of(encoder))


def check(encoder, chosen):
    """Raises `ValueError` unless all of the names `chosen` are stages."""
    known = names(encoder)
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"stage {name!r} received, but the stages of the encoder "
                f"{encoder.name!r} are {', '.join(known)}."
            )


def any_size(encoder, stage):
    """The part of an encoder up to a stage, for images of any size.

    Args:
        encoder: a functional Keras model with `stage_outputs`.
        stage: name of one.

    Returns:
        Keras model `(batch, h, w, c)` -> `(batch, h', w', c')`. It shares the layers
        of the encoder.

    Raises:
        ValueError: for an unknown stage, and an encoder that takes only some sizes, as
            a vision transformer.
    """
    check(encoder, [stage])
    choosy = [
        part for part in internals.layers_of(encoder) if hasattr(part, "check_images")
    ]
    if choosy:
        raise ValueError(
            f"The encoder {encoder.name!r} ({type(choosy[0]).__name__}) takes images "
            "of some sizes only, but these are to keep their own; take an encoder of "
            "convolutions, as a ResNet."
        )
    images = encoder.inputs[0]
    # The encoder may be built for one size; its layers up to here are not.
    return keras.models.clone_model(
        keras.Model(images, encoder.stage_outputs[stage]),
        input_tensors=keras.Input((None, None, images.shape[-1])),
        clone_function=lambda layer: layer,
    )


def pooled_size(height, width, channels, limit=LIMIT):
    """The largest side of a pooled map whose numbers are at most `limit`.

    Of AlexNet's five maps at 224 pixels (55 x 55 x 96 … 13 x 13 x 256) this gives
    10, 6, 5, 5 and 6, and of ResNet-50's 12, 6, 4, 3 and 2: the sizes of DeepCluster
    and of Goyal et al.

    Args:
        height: int, of the map.
        width: int.
        channels: int.
        limit: int, numbers of the pooled map.

    Returns:
        `(rows, columns)`, at most `(height, width)`, equal unless a side is shorter.
        `(1, 1)` also where the channels alone are more than `limit`.
    """
    side = 1
    while (
        side < max(height, width)
        and min(side + 1, height) * min(side + 1, width) * channels <= limit
    ):
        side += 1
    return min(side, height), min(side, width)


def pool(maps, size):
    """Means over a grid of windows that cover a feature map evenly.

    Window `i` of `n` along a side of `length` is from `floor(i * length / n)` to
    `ceil((i + 1) * length / n)`: no pixel is left out, and neighbours share one where
    the side cannot be divided (adaptive average pooling).

    Args:
        maps: `(batch, height, width, channels)`, sides known, any floating dtype.
        size: `(rows, columns)` of the result, at most the map's.

    Returns:
        float32 `(batch, rows, columns, channels)`.
    """
    maps = tf.cast(maps, tf.float32)
    for equation, length, number in (
        ("nh,bhwc->bnwc", maps.shape[1], size[0]),
        ("nw,bhwc->bhnc", maps.shape[2], size[1]),
    ):
        if length != number:
            maps = tf.einsum(equation, _windows(length, number), maps)
    return maps


def pooled(encoder, stage, limit=LIMIT):
    """The encoder up to a stage, its map averaged to at most `limit` numbers.

    Pools inside the model, so that nobody holds the maps of more than a batch.

    Args:
        encoder: a functional Keras model with `stage_outputs`.
        stage: name of one.
        limit: int, see `pooled_size`.

    Returns:
        Keras model, images `(batch, h, w, c)` -> float32 `(batch, features)`. It
        shares the layers of the encoder.

    Reference:
        Zhang et al., 2016, https://arxiv.org/abs/1603.08511, and Caron et al., 2018,
        https://arxiv.org/abs/1807.05520 (`eval_linear.py`), whose windows are of one
        size and leave out up to a row and a column at the border.
    """
    check(encoder, [stage])
    if limit < 1:
        raise ValueError(f"limit={limit} received for a pooled stage, give 1 or more.")
    features = _Pool(limit, name="pooled")(encoder.stage_outputs[stage])
    return keras.Model(encoder.inputs[0], features, name=f"{encoder.name}_{stage}")


class _Pool(keras.layers.Layer):
    """`pool`, flattened. A layer, since maps of unknown size get theirs when called."""

    def __init__(self, limit, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.limit = limit

    def call(self, maps):
        size = pooled_size(*maps.shape[1:], self.limit)
        return tf.reshape(pool(maps, size), [-1, size[0] * size[1] * maps.shape[-1]])

    def compute_output_shape(self, shape):
        if None in shape[1:]:
            return (shape[0], None)
        rows, columns = pooled_size(*shape[1:], self.limit)
        return (shape[0], rows * columns * shape[-1])


def _windows(length, number):
    """Float32 `(number, length)`: the weights of the means along a side."""
    weights = np.zeros([number, length], np.float32)
    for i in range(number):
        first, end = i * length // number, -(-(i + 1) * length // number)
        weights[i, first:end] = 1 / (end - first)
    return weights

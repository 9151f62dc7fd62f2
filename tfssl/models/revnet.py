"""RevNet-50, a reversible residual network (Gomez et al., 2017, arXiv 1707.04585).

A map is two halves of its channels. A block adds what a branch makes of one half to
the other: `y = x1 + branch(x2)`, and gives `(x2, y)`. So its input is that output less
what the same branch makes of a half that is still there: nothing of it is lost.
"""

import keras
from keras import layers, ops

from tfssl.models import branches, freezing, remat, residual

_BLOCKS = (3, 4, 6, 3)
_FILTERS = 256  # Of the stem and the first stage; doubled at each further one.
_NARROWER = 4  # Filters of a half to those inside of its branch.


@keras.saving.register_keras_serializable(package="tfssl")
class PadChannels(layers.Layer):
    """As many channels of zeros before those that are there as behind them.

    Twice as many channels come out as go in; an odd one more stands behind. It has no
    variables.
    """

    def call(self, inputs):
        count = inputs.shape[-1]
        sides = (count // 2, count - count // 2)
        return ops.pad(inputs, [(0, 0)] * (len(inputs.shape) - 1) + [sides])

    def compute_output_shape(self, input_shape):
        """The input's with twice the channels."""
        return (*input_shape[:-1], 2 * input_shape[-1])


@keras.saving.register_keras_serializable(package="tfssl")
class RevNet(remat.Blockwise):
    """A RevNet-50 encoder, images to pooled features; short name `models.revnet`.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, 2048 * width)`, float32 under mixed precision too. Sixteen blocks
    with norm and ReLU in front of each convolution; between two stages the mean of 2x2
    pixels and zeros for the new channels, which have no weights. The stem is one
    convolution, without norm or ReLU, and a last norm and ReLU stand behind the blocks.

    Activations are kept for the backward pass as in any network, or computed again
    block by block (`remat`), not by running blocks backwards as the paper does: that
    would give other activations by their rounding.

    Args:
        width: float, factor on every layer's number of filters (256, 512, 1024, 2048
            at width 1), in steps of 8 of the first. May be below 1, as 0.25. The
            authors' `filters_factor` is four times as large.
        stem: `"imagenet"`, a 7x7 convolution of stride 2 and a 3x3 max-pool of stride
            2, or `"cifar"`, a 3x3 convolution of stride 1 and no pool.
        input_shape: `(height, width, channels)`; height and width may be `None`,
            channels may be any number from 1.
        norm: as for `models.ResNet`.
        norm_statistics: as for `models.ResNet`.
        norm_group_size: as for `models.ResNet`.
        norm_replica_groups: as for `models.ResNet`.
        init: how the kernels start, as for `models.ResNet`.
        dtype: Keras dtype policy of the layers. `None`: the global policy.
        name: name of the model. `None`: `"revnet50"`.
        trainable: as in Keras.

    Attributes:
        pyramid_outputs: dict of Keras tensors `"P2"` … `"P5"`, the feature maps behind
            the four stages, the last behind its norm and ReLU.
        stage_outputs: dict of Keras tensors in order, `"conv1"`, the stem's convolution
            before any pool, and `"res2"` … `"res5"`, which are `"P2"` … `"P5"`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        Kolesnikov et al., 2019, https://arxiv.org/abs/1901.09005, and their code,
        google/revisiting-self-supervised, models/resnet.py, `revnet50`, with its
        `last_relu=True`. Differences: kernels start as `init` says, there as
        TensorFlow's layers do (Glorot); norms have epsilon 1e-5 and momentum 0.9.
    """

    def __init__(
        self,
        *,
        width=1,
        stem="imagenet",
        input_shape=(None, None, 3),
        norm="batch",
        norm_statistics="local",
        norm_group_size=32,
        norm_replica_groups=1,
        init="simclr",
        dtype=None,
        name=None,
        trainable=True,
    ):
        residual.check(stem, input_shape, norm, norm_statistics, init)
        filters = int(_FILTERS * width)
        if filters < 2 * _NARROWER:
            raise ValueError(
                f"width must be at least {2 * _NARROWER} / {_FILTERS}, got {width!r}."
            )
        filters -= filters % (2 * _NARROWER)
        parts = residual.parts_of(
            norm=norm,
            norm_statistics=norm_statistics,
            norm_group_size=norm_group_size,
            norm_replica_groups=norm_replica_groups,
            init=init,
            dtype=dtype,
        )
        inputs = keras.Input(tuple(input_shape), name="images")
        first, x = _stem(parts, inputs, filters, stem)
        pyramid, ends = {}, [x]
        for stage, count in enumerate(_BLOCKS):
            if stage > 0:
                x = _doubled(parts, x, f"stack{stage}")
                ends.append(x)
            for i in range(count):
                x = _block(parts, x, f"stack{stage}_block{i}")
                ends.append(x)
            pyramid[f"P{stage + 2}"] = x
        pyramid["P5"] = x = parts.norm_relu(x, "last")
        features = layers.GlobalAveragePooling2D(dtype=parts.wide, name="features")(x)
        super().__init__(
            inputs=inputs,
            outputs=features,
            name=name or "revnet50",
            trainable=trainable,
        )
        self.block_ends = ends
        self.pyramid_outputs = pyramid
        self.stage_outputs = {
            "conv1": first,
            **{f"res{level[1]}": x for level, x in pyramid.items()},
        }
        self.dtype_policy = parts.policy
        self.width = width
        self.stem = stem
        self.norm = norm
        self.norm_statistics = norm_statistics
        self.norm_group_size = norm_group_size
        self.norm_replica_groups = norm_replica_groups
        self.init = init

    def get_config(self):
        """Every constructor argument."""
        return {
            "width": self.width,
            "stem": self.stem,
            "input_shape": tuple(self.input_shape[1:]),
            "norm": self.norm,
            "norm_statistics": self.norm_statistics,
            "norm_group_size": self.norm_group_size,
            "norm_replica_groups": self.norm_replica_groups,
            "init": self.init,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            **freezing.config_of(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        return freezing.made(cls, config)


def _stem(parts, images, filters, kind):
    """The stem's convolution, and what the first stage gets."""
    if kind == "cifar":
        first = parts.conv(images, filters, 3, 1, "conv1")
        return first, first
    first = parts.conv(images, filters, 7, 2, "conv1")
    x, padding = parts.padded(first, 3, 2, "pool1")
    return first, layers.MaxPooling2D(
        3, strides=2, padding=padding, dtype=parts.policy, name="pool1_pool"
    )(x)


def _block(parts, x, name):
    """One reversible block; the halves change places."""
    half = x.shape[-1] // 2
    still = branches.Channels(
        range(half, 2 * half), dtype=parts.policy, name=f"{name}_still"
    )(x)
    moved = branches.Channels(range(half), dtype=parts.policy, name=f"{name}_moved")(x)
    inner = still
    for i, (filters, size) in enumerate(
        ((half // _NARROWER, 1), (half // _NARROWER, 3), (half, 1)), start=1
    ):
        inner = parts.norm_relu(inner, f"{name}_{i}")
        inner = parts.conv(inner, filters, size, 1, f"{name}_{i}")
    moved = layers.Add(dtype=parts.policy, name=f"{name}_add")([moved, inner])
    return layers.Concatenate(dtype=parts.policy, name=f"{name}_out")([still, moved])


def _doubled(parts, x, name):
    """Half the side, twice the channels."""
    x = layers.AveragePooling2D(
        2, strides=2, padding="same", dtype=parts.policy, name=f"{name}_pool"
    )(x)
    return PadChannels(dtype=parts.policy, name=f"{name}_pad")(x)


revnet = RevNet

"""What AlexNet and VGG share: convolutions in a row, then two dense layers."""

import keras
from keras import layers

from tfssl.models import dropout as dropout_lib
from tfssl.models import freezing, image_format, norms, remat
from tfssl.models import sobel as sobel_lib

_DENSE_UNITS = 4096


class FeedForward(remat.Blockwise):
    """Stages of convolutions, batch norm and ReLU; dense, ReLU, dense.

    A functional Keras model, rebuilt from `get_config`.

    Args:
        stages: dict in order, from a stage's name to `(convolutions, pool)`, where
            a convolution is `(filters, kernel_size, strides, padding)` and a pool
            `(size, strides)`, or None.
        width: float, factor on all numbers of filters and units.
        input_shape: `(height, width, channels)`, all known.
        sobel: whether a `Sobel` layer comes first.
        dropout: float in [0, 1), the rate in front of a dense layer.
        drop_maps: whether there is dropout in front of the first dense layer too.
        norm_statistics: as for `models.ResNet`.
        norm_group_size: as for `models.ResNet`.
        dtype: Keras dtype policy.
        name: name of the model.
        trainable: as in Keras.

    Attributes:
        stage_outputs: dict in order, from a stage's name to its feature map behind
            the last ReLU, before the pool.
        remat: bool, False; set it, and training keeps these feature maps only, and
            computes what lies between two of them again for its gradient. See
            `remat.Blockwise`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.
    """

    def __init__(
        self,
        stages,
        *,
        width,
        input_shape,
        sobel,
        dropout,
        drop_maps,
        norm_statistics,
        norm_group_size,
        dtype,
        name,
        trainable,
    ):
        _check_arguments(name, stages, width, input_shape, norm_statistics, dropout)
        policy = keras.dtype_policies.get(dtype)
        wide = "float64" if policy.compute_dtype == "float64" else "float32"
        group_size = norm_group_size if norm_statistics == "split" else None
        inputs = keras.Input(tuple(input_shape), name="images")
        x = inputs
        if sobel:
            # Wide: small differences of large values.
            x = sobel_lib.Sobel(dtype=wide, name="sobel")(x)
        outputs = {}
        for stage, (convolutions, pool) in stages.items():
            for i, convolution in enumerate(convolutions, start=1):
                layer = stage if len(convolutions) == 1 else f"{stage}_{i}"
                x = _conv(x, width, convolution, policy, layer)
                x = norms.BatchNorm(
                    statistics=norm_statistics,
                    group_size=group_size,
                    dtype=policy,
                    name=f"{layer}_bn",
                )(x)
                x = layers.ReLU(dtype=policy, name=f"{layer}_relu")(x)
            outputs[stage] = x
            if pool:
                x = layers.MaxPooling2D(*pool, dtype=policy, name=f"{stage}_pool")(x)
        x = layers.Flatten(dtype=policy, name="flatten")(x)
        if drop_maps:
            x = dropout_lib.Dropout(dropout, dtype=policy, name="fc6_dropout")(x)
        x = _dense(x, width, policy, "fc6")
        x = layers.ReLU(dtype=policy, name="fc6_relu")(x)
        x = dropout_lib.Dropout(dropout, dtype=policy, name="fc7_dropout")(x)
        x = _dense(x, width, policy, "fc7")
        # Wide from here on: all that reads the features.
        features = layers.Activation("linear", dtype=wide, name="features")(x)
        super().__init__(
            inputs=inputs, outputs=features, name=name, trainable=trainable
        )
        self.block_ends = list(outputs.values())
        self.stage_outputs = outputs
        self.dtype_policy = policy
        self.width = width
        self.sobel = sobel
        self.dropout = dropout
        self.norm_statistics = norm_statistics
        self.norm_group_size = norm_group_size

    def get_config(self):
        """Every constructor argument that the networks share."""
        return {
            "width": self.width,
            "input_shape": tuple(self.input_shape[1:]),
            "sobel": self.sobel,
            "dropout": self.dropout,
            "norm_statistics": self.norm_statistics,
            "norm_group_size": self.norm_group_size,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            **freezing.config_of(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        return freezing.made(cls, norms.renamed(config))


def _conv(x, width, convolution, policy, name):
    filters, kernel_size, strides, padding = convolution
    if strides > 1:
        x = layers.ZeroPadding2D(padding, dtype=policy, name=f"{name}_pad")(x)
    return layers.Conv2D(
        int(filters * width),
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        # One object per layer: a shared one would repeat its values.
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        dtype=policy,
        name=f"{name}_conv",
    )(x)


def _dense(x, width, policy, name):
    return layers.Dense(
        int(_DENSE_UNITS * width),
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype=policy,
        name=name,
    )(x)


def _size_after(stages, size):
    """Side of the last feature map; 0 or less if there is none."""
    for convolutions, pool in stages.values():
        for _, kernel_size, strides, padding in convolutions:
            size = (size + 2 * padding - kernel_size) // strides + 1
        if pool:
            size = (size - pool[0]) // pool[1] + 1
    return size


def _check_arguments(name, stages, width, input_shape, norm_statistics, dropout):
    image_format.check()
    if len(input_shape) != 3 or not all(input_shape):
        raise ValueError(
            f"input_shape={tuple(input_shape)!r} was given to {name}, whose dense "
            "layers need one size of images; give (height, width, channels), all known."
        )
    if min(_size_after(stages, side) for side in input_shape[:2]) < 1:
        smallest = next(n for n in range(1, 1000) if _size_after(stages, n) > 0)
        raise ValueError(
            f"Images of {input_shape[0]} x {input_shape[1]} leave nothing after the "
            f"last pool of this {name}; give {smallest} pixels or more a side"
            f"{_hint(stages)}."
        )
    smallest = min(filters for convs, _ in stages.values() for filters, *_ in convs)
    if int(smallest * width) < 1:
        raise ValueError(f"width must be at least 1 / {smallest}, got {width!r}.")
    if norm_statistics not in norms.OF_ENCODERS:
        raise ValueError(
            f"norm_statistics must be one of {norms.OF_ENCODERS}, got "
            f"{norm_statistics!r}."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout!r}.")


def _hint(stages):
    strided = any(
        strides > 1 for convs, _ in stages.values() for *_, strides, _ in convs
    )
    return ', or stem="cifar"' if strided else ""

"""ResNet encoders (He et al., 2016, https://arxiv.org/abs/1512.03385).

Version 1 with the stride on the 3x3 convolution, as all self-supervised papers have
it, and a width multiplier. How the weights start differs between the papers: `init`
and `zero_init_residual`. Layer names follow keras-hub's `ResNetBackbone`.
"""

import keras
from keras import layers

from tfssl.models import heads, norms
from tfssl.models import sobel as sobel_lib

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
_BOTTLENECK_DEPTH = 50  # From here on a block is 1x1, 3x3, 1x1 with 4x output.
_STEMS = ("imagenet", "cifar")
_PADDINGS = ("fixed", "same")
# Arguments of `VarianceScaling` for the kernels.
_INITS = {
    "simclr": dict(scale=1.0, mode="fan_in", distribution="truncated_normal"),
    "torchvision": dict(scale=2.0, mode="fan_out", distribution="untruncated_normal"),
    "torch": heads.UNIFORM_FAN_IN["config"],
}


def _check_arguments(depth, width, stem, input_shape, statistics, padding, init):
    if depth not in _BLOCKS:
        raise ValueError(f"depth must be one of {tuple(_BLOCKS)}, got {depth!r}.")
    if int(64 * width) < 1:
        raise ValueError(f"width must be at least 1 / 64, got {width!r}.")
    if len(input_shape) != 3 or not input_shape[2]:
        raise ValueError(
            "input_shape must be (height, width, channels) with channels known and "
            f"height and width possibly None, got {tuple(input_shape)!r}."
        )
    for name, value, valid in (
        ("stem", stem, _STEMS),
        ("norm_statistics", statistics, norms.OF_ENCODERS),
        ("padding", padding, _PADDINGS),
        ("init", init, tuple(_INITS)),
    ):
        if value not in valid:
            raise ValueError(f"{name} must be one of {valid}, got {value!r}.")


class _Parts:
    """Convolution, norm and ReLU with this network's padding, norm, start and dtype."""

    def __init__(self, norm, padding, init, zero_init_residual, policy):
        self.norm = norm  # Arguments of `BatchNorm`.
        self.padding = padding
        self.init = init
        self.zero_init_residual = zero_init_residual
        self.policy = policy

    def pad(self, x, kernel_size, name):
        """Zeros for a strided window, as many before as after (one more after)."""
        total = kernel_size - 1
        sides = (total // 2, total - total // 2)
        return layers.ZeroPadding2D((sides, sides), dtype=self.policy, name=name)(x)

    def conv_norm(
        self, x, filters, kernel_size, strides, name, *, init=None, last=False
    ):
        """`init`: of this kernel; `last`: whether it ends a residual branch."""
        padding = "same"
        if self.padding == "fixed" and strides > 1:
            padding = "valid"
            if kernel_size > 1:
                x = self.pad(x, kernel_size, f"{name}_pad")
        x = layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
            # One object per layer: a shared one would repeat its values.
            kernel_initializer=keras.initializers.VarianceScaling(
                **_INITS[init or self.init]
            ),
            dtype=self.policy,
            name=f"{name}_conv",
        )(x)
        return norms.BatchNorm(
            **self.norm,
            gamma_initializer="zeros" if last and self.zero_init_residual else "ones",
            dtype=self.policy,
            name=f"{name}_bn",
        )(x)

    def relu(self, x, name):
        return layers.ReLU(dtype=self.policy, name=name)(x)


def _stem(parts, x, filters, stem):
    """The first convolution's feature map, and what the first stage gets."""
    if stem == "cifar":
        # torchvision has no such stem: its users put in a convolution of PyTorch's.
        init = "torch" if parts.init == "torchvision" else None
        x = parts.conv_norm(x, filters, 3, 1, "conv1", init=init)
        x = parts.relu(x, "conv1_relu")
        return x, x
    first = parts.relu(parts.conv_norm(x, filters, 7, 2, "conv1"), "conv1_relu")
    x, padding = first, "same"
    if parts.padding == "fixed":
        x = parts.pad(x, 3, "pool1_pad")  # As good as -inf: x is not negative.
        padding = "valid"
    return first, layers.MaxPooling2D(
        3, strides=2, padding=padding, dtype=parts.policy, name="pool1_pool"
    )(x)


def _block(parts, x, filters, strides, bottleneck, projection, name):
    """One residual block; `projection`: a 1x1 convolution on the shortcut."""
    shortcut = x
    if bottleneck:
        branch = ((filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1))
    else:
        branch = ((filters, 3, strides), (filters, 3, 1))
    if projection:
        shortcut = parts.conv_norm(x, branch[-1][0], 1, strides, f"{name}_0")
    for i, (width, kernel_size, step) in enumerate(branch, start=1):
        last = i == len(branch)
        x = parts.conv_norm(x, width, kernel_size, step, f"{name}_{i}", last=last)
        if not last:
            x = parts.relu(x, f"{name}_{i}_relu")
    x = layers.Add(dtype=parts.policy, name=f"{name}_add")([shortcut, x])
    return parts.relu(x, f"{name}_out")


@keras.saving.register_keras_serializable(package="tfssl")
class ResNet(keras.Model):
    """A ResNet encoder: images to pooled features; `models.resnet` is its short name.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, 512 * width)`, or `2048 * width` from depth 50. The features are
    float32 under mixed precision too. Rebuilt from `get_config`, so that `.keras` files
    and keras-hub's detectors can save and load it.
    `ResNet.from_config(encoder.get_config())` is a second encoder with weights of its
    own (`keras.models.clone_model` would lose the class and `pyramid_outputs`).

    Args:
        depth: 18 or 34 (two 3x3 convolutions per block), 50, 101, 152 or 200
            (bottleneck blocks, 4 times as many features).
        width: float, factor on every layer's number of filters (64, 128, 256,
            512 for the stages at width 1). May be below 1, as 0.25.
        stem: `"imagenet"`, a 7x7 convolution of stride 2 and a 3x3 max-pool of
            stride 2, or `"cifar"`, a 3x3 convolution of stride 1 and no pool,
            which SimCLR's code takes for images up to 32 pixels.
        input_shape: `(height, width, channels)`; height and width may be `None`,
            channels may be any number from 1.
        norm_statistics: whose moments batch norm takes: `"local"`, those of each
            replica's own batch, `"global"`, of the batch of all replicas (equal on one
            replica), or `"split"`, of groups of `norm_group_size` images, for MoCo on
            few devices. Momentum 0.9, epsilon 1e-5.
        norm_group_size: int >= 1, images per group of `"split"`; 32 is the batch per
            device of MoCo's code.
        norm_replica_groups: int >= 1, into how many groups `"global"` divides the
            replicas, see `norms.BatchNorm`; 8 at batch 4096 are the groups of 512
            images of SwAV's code, on 8, 16, … 64 replicas.
        padding: how layers of stride 2 pad. `"fixed"`: the same zeros on both
            sides, as PyTorch, keras-hub and SimCLR's code; `"same"`: TensorFlow's
            SAME, which Model Garden needs. Weights trained with one are wrong for
            the other, so the choice is kept in the configuration.
        projection_in_first_block: whether the very first block of a ResNet-18 or
            34 has a convolution on its shortcut, as in SimCLR's code and Model
            Garden, or an identity, as in torchvision and keras-hub. Deeper
            networks always have one there.
        init: how the kernels start, with variance `v / fan`. `"simclr"`: 1 / fan in,
            a truncated normal (SimCLR's code). `"torchvision"`: 2 / fan out, a normal
            (MoCo, SwAV, DeepCluster-v2), and with the CIFAR stem its convolution as
            `"torch"`, which is what MoCo's demo and solo-learn do. `"torch"`:
            1 / (3 fan in), uniform, the default of PyTorch's layers (lightly).
        zero_init_residual: whether the last batch norm of every residual branch
            starts with a scale of zero, so that the branch starts as nothing
            (SimCLR, MoCo v3, BYOL's code), or of one (MoCo v1 and v2, SwAV,
            DeepCluster-v2, BYOL's paper). It matters most with an optimizer that
            adapts these scales, as LARC: they then leave zero slowly.
        sobel: whether a fixed `Sobel` filter comes first and the stem gets its two
            channels, as in ResNets trained with DeepCluster.
        dtype: Keras dtype policy of the layers, as `"mixed_bfloat16"`. `None`:
            the global policy.
        name: name of the model. `None`: `"resnet<depth>"`.
        trainable: as in Keras.

    Attributes:
        pyramid_outputs: dict of Keras tensors `"P2"` … `"P5"`, the feature maps
            behind the four stages. With the ImageNet stem `"Pn"` is `2**n` times
            smaller than the image, with the CIFAR stem `2**(n - 2)` times.
        stage_outputs: dict of Keras tensors in order, `"conv1"`, the first
            convolution behind its ReLU and before any pool, and `"res2"` … `"res5"`,
            which are `"P2"` … `"P5"`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        google-research/simclr, tf2/resnet.py. Differences from that code: with
        `padding="fixed"` the max-pool of the stem pads both sides alike, as
        PyTorch and keras-hub do, where that code leaves this one layer at SAME.
    """

    def __init__(
        self,
        depth,
        *,
        width=1,
        stem="imagenet",
        input_shape=(None, None, 3),
        norm_statistics="local",
        norm_group_size=32,
        norm_replica_groups=1,
        padding="fixed",
        projection_in_first_block=True,
        init="simclr",
        zero_init_residual=True,
        sobel=False,
        dtype=None,
        name=None,
        trainable=True,
    ):
        _check_arguments(
            depth, width, stem, input_shape, norm_statistics, padding, init
        )
        policy = keras.dtype_policies.get(dtype)
        norm = dict(
            statistics=norm_statistics,
            group_size=norm_group_size if norm_statistics == "split" else None,
            replica_groups=norm_replica_groups,
        )
        parts = _Parts(norm, padding, init, zero_init_residual, policy)
        bottleneck = depth >= _BOTTLENECK_DEPTH
        inputs = keras.Input(tuple(input_shape), name="images")
        # float32 where rounding matters: differences of pixels, and from the mean
        # over the last feature map on.
        wide = "float64" if policy.compute_dtype == "float64" else "float32"
        x = sobel_lib.Sobel(dtype=wide, name="sobel")(inputs) if sobel else inputs
        first, x = _stem(parts, x, int(64 * width), stem)
        pyramid = {}
        for stage, count in enumerate(_BLOCKS[depth]):
            filters = int(64 * width) * 2**stage
            for i in range(count):
                # Only a basic block of the first stage could do without.
                projection = i == 0 and (
                    stage > 0 or bottleneck or projection_in_first_block
                )
                strides = 2 if stage > 0 and i == 0 else 1
                block = f"stack{stage}_block{i}"
                x = _block(parts, x, filters, strides, bottleneck, projection, block)
            pyramid[f"P{stage + 2}"] = x
        features = layers.GlobalAveragePooling2D(dtype=wide, name="features")(x)
        super().__init__(
            inputs=inputs,
            outputs=features,
            name=name or f"resnet{depth}",
            trainable=trainable,
        )
        self.pyramid_outputs = pyramid
        self.stage_outputs = {
            "conv1": first,
            **{f"res{level[1]}": x for level, x in pyramid.items()},
        }
        self.dtype_policy = policy
        self.depth = depth
        self.width = width
        self.stem = stem
        self.norm_statistics = norm_statistics
        self.norm_group_size = norm_group_size
        self.norm_replica_groups = norm_replica_groups
        self.padding = padding
        self.projection_in_first_block = projection_in_first_block
        self.init = init
        self.zero_init_residual = zero_init_residual
        self.sobel = sobel

    def get_config(self):
        """Every constructor argument."""
        return {
            "depth": self.depth,
            "width": self.width,
            "stem": self.stem,
            "input_shape": tuple(self.input_shape[1:]),
            "norm_statistics": self.norm_statistics,
            "norm_group_size": self.norm_group_size,
            "norm_replica_groups": self.norm_replica_groups,
            "padding": self.padding,
            "projection_in_first_block": self.projection_in_first_block,
            "init": self.init,
            "zero_init_residual": self.zero_init_residual,
            "sobel": self.sobel,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        return cls(**norms.renamed(config))


resnet = ResNet

"""What a ResNet is made of: its stems, its blocks, and the layers in them."""

import keras
from keras import layers

from tfssl.models import heads, image_format, norms, selective_kernels

STEMS = ("imagenet", "cifar")
PADDINGS = ("fixed", "same")
# Arguments of `VarianceScaling` for the kernels.
INITS = {
    "simclr": dict(scale=1.0, mode="fan_in", distribution="truncated_normal"),
    "torchvision": dict(scale=2.0, mode="fan_out", distribution="untruncated_normal"),
    "torch": heads.UNIFORM_FAN_IN["config"],
}
# Of fewer channels and an odd batch, oneDNN's gradient of a 1x1 kernel with strides
# writes beyond its end (TensorFlow 2.20) and ends the process: places are taken first.
_FEWEST_STRIDDEN = 16
_FEWEST_MIXERS = 32  # Of the filters between the pooled streams and their scores.


def check(stem, input_shape, norm, norm_statistics, init):
    """Raises `ValueError` for arguments that no network of residual blocks takes."""
    image_format.check()
    for name, value, valid in (
        ("stem", stem, STEMS),
        ("norm", norm, norms.KINDS),
        ("norm_statistics", norm_statistics, norms.OF_ENCODERS),
        ("init", init, tuple(INITS)),
    ):
        if value not in valid:
            raise ValueError(f"{name} must be one of {valid}, got {value!r}.")
    if norm != "batch" and norm_statistics != "local":
        raise ValueError(
            f"norm_statistics={norm_statistics!r} received with norm={norm!r}, which "
            "takes none of a batch; leave norm_statistics out."
        )
    if len(input_shape) != 3 or not input_shape[2]:
        raise ValueError(
            "input_shape must be (height, width, channels) with channels known and "
            f"height and width possibly None, got {tuple(input_shape)!r}."
        )


class Parts:
    """Layers with one network's padding, norm, start and dtype.

    Args:
        norm: function that makes a norm, see `norms.maker`.
        padding: one of `PADDINGS`.
        init: a key of `INITS`.
        zero_init_residual: whether the last norm of a branch starts at zero.
        selective_ratio: float, filters that score the streams of selective kernels per
            filter of a stream; None for a network without selective kernels.
        policy: Keras dtype policy.
    """

    def __init__(
        self, *, norm, padding, init, zero_init_residual, selective_ratio, policy
    ):
        self.norm = norm
        self.padding = padding
        self.init = init
        self.zero_init_residual = zero_init_residual
        self.selective_ratio = selective_ratio
        self.policy = policy
        # float32 where rounding matters: differences of pixels, and means over maps.
        self.wide = "float64" if policy.compute_dtype == "float64" else "float32"

    def padded(self, x, size, strides, name):
        """`x` ready for a window, and the padding that its layer still has to do.

        Zeros for a strided window, as many before as after (one more after).
        """
        if self.padding == "same" or strides == 1:
            return x, "same"
        if size > 1:
            total = size - 1
            sides = (total // 2, total - total // 2)
            x = layers.ZeroPadding2D(
                (sides, sides), dtype=self.policy, name=f"{name}_pad"
            )(x)
        return x, "valid"

    def conv(self, x, filters, size, strides, name, init=None):
        """A convolution without bias; `init`: of this kernel."""
        x, padding = self.padded(x, size, strides, name)
        if size == 1 and strides > 1 and x.shape[-1] < _FEWEST_STRIDDEN:
            x = layers.AveragePooling2D(
                1, strides=strides, dtype=self.policy, name=f"{name}_places"
            )(x)
            strides = 1
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            # One object per layer: a shared one would repeat its values.
            kernel_initializer=keras.initializers.VarianceScaling(
                **INITS[init or self.init]
            ),
            dtype=self.policy,
            name=f"{name}_conv",
        )(x)

    def conv_norm(self, x, filters, size, strides, name, *, init=None, last=False):
        """`last`: whether it ends a residual branch."""
        x = self.conv(x, filters, size, strides, name, init)
        still = last and self.zero_init_residual
        return self.norm(name, "zeros" if still else "ones")(x)

    def conv_relu(self, x, filters, size, strides, name, init=None):
        """Convolution, norm and ReLU."""
        x = self.conv(x, filters, size, strides, name, init)
        return self.norm_relu(x, name)

    def norm_relu(self, x, name):
        """Norm and ReLU."""
        x = self.norm(name, "ones")(x)
        return layers.ReLU(dtype=self.policy, name=f"{name}_relu")(x)

    def mean_pool(self, x, strides, name):
        """The mean of each two by two pixels."""
        x, padding = self.padded(x, 2, strides, name)
        return layers.AveragePooling2D(
            2, strides=strides, padding=padding, dtype=self.policy, name=f"{name}_pool"
        )(x)

    def selective(self, x, filters, strides, name):
        """A 3x3 convolution of two streams, norm and ReLU; then the streams' mix."""
        streams = self.conv_relu(x, 2 * filters, 3, strides, name)
        pooled = selective_kernels.PoolStreams(dtype=self.wide, name=f"{name}_pool")
        mixers = max(int(filters * self.selective_ratio), _FEWEST_MIXERS)
        x = self.conv_relu(pooled(streams), mixers, 1, 1, f"{name}_mixers")
        scores = self.conv(x, 2 * filters, 1, 1, f"{name}_scores")
        return selective_kernels.MixStreams(dtype=self.policy, name=f"{name}_mix")(
            [streams, scores]
        )


def parts_of(
    *,
    norm,
    norm_statistics,
    norm_group_size,
    norm_replica_groups,
    init,
    dtype,
    padding="fixed",
    zero_init_residual=False,
    selective_ratio=None,
):
    """The `Parts` of a network by its arguments, see `models.ResNet`."""
    policy = keras.dtype_policies.get(dtype)
    return Parts(
        norm=norms.maker(
            norm,
            policy,
            statistics=norm_statistics,
            group_size=norm_group_size if norm_statistics == "split" else None,
            replica_groups=norm_replica_groups,
        ),
        padding=padding,
        init=init,
        zero_init_residual=zero_init_residual,
        selective_ratio=selective_ratio,
        policy=policy,
    )


def stem(parts, x, filters, kind):
    """The stem's last convolution behind its ReLU, and what the first stage gets."""
    if kind == "cifar":
        # torchvision has no such stem: its users put in a convolution of PyTorch's.
        init = "torch" if parts.init == "torchvision" else None
        x = parts.conv_relu(x, filters, 3, 1, "conv1", init)
        return x, x
    if parts.selective_ratio:
        x = parts.conv_relu(x, filters // 2, 3, 2, "conv1_1")
        x = parts.conv_relu(x, filters // 2, 3, 1, "conv1_2")
        first = parts.conv_relu(x, filters, 3, 1, "conv1_3")
    else:
        first = parts.conv_relu(x, filters, 7, 2, "conv1")
    x, padding = parts.padded(first, 3, 2, "pool1")  # 0 is the least after a ReLU.
    return first, layers.MaxPooling2D(
        3, strides=2, padding=padding, dtype=parts.policy, name="pool1_pool"
    )(x)


def block(parts, x, filters, expansion, strides, projection, name):
    """One residual block; `projection`: a 1x1 convolution on the shortcut.

    `expansion`: of a bottleneck, how many times `filters` it puts out; 1 is a basic
    block.
    """
    shortcut = x
    if expansion > 1:
        branch = ((filters, 1, 1), (filters, 3, strides), (expansion * filters, 1, 1))
    else:
        branch = ((filters, 3, strides), (filters, 3, 1))
    if projection:
        step = strides
        if parts.selective_ratio:
            shortcut, step = parts.mean_pool(x, strides, f"{name}_0"), 1
        shortcut = parts.conv_norm(shortcut, branch[-1][0], 1, step, f"{name}_0")
    for i, (width, size, step) in enumerate(branch[:-1], start=1):
        if parts.selective_ratio and size == 3:
            x = parts.selective(x, width, step, f"{name}_{i}")
        else:
            x = parts.conv_relu(x, width, size, step, f"{name}_{i}")
    x = parts.conv_norm(x, *branch[-1], f"{name}_{len(branch)}", last=True)
    x = layers.Add(dtype=parts.policy, name=f"{name}_add")([shortcut, x])
    return layers.ReLU(dtype=parts.policy, name=f"{name}_out")(x)

"""ResNet encoders (He et al., 2016, https://arxiv.org/abs/1512.03385).

Version 1 with the stride on the 3x3 convolution, as all self-supervised papers have
it, and a width multiplier. How the weights start differs between the papers: `init`
and `zero_init_residual`. Layer names follow keras-hub's `ResNetBackbone`.
"""

import keras
from keras import layers

from tfssl.models import freezing, norms, remat, residual
from tfssl.models import sobel as sobel_lib

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    161: (3, 4, 46),
    200: (3, 24, 36, 3),
}
_BOTTLENECK_DEPTH = 50  # From here on a block is 1x1, 3x3, 1x1 with 4x output.
# `(filters, expansion)` of the third stage of CPC v2's network, its last.
_WIDE_THIRD = {161: (512, 8)}


def _stages(depth):
    """`(blocks, filters, expansion)` of every stage, at width 1."""
    expansion = 4 if depth >= _BOTTLENECK_DEPTH else 1
    stages = [(n, 64 * 2**i, expansion) for i, n in enumerate(_BLOCKS[depth])]
    if depth in _WIDE_THIRD:
        stages[2] = (stages[2][0], *_WIDE_THIRD[depth])
    return stages


def _check_arguments(depth, width, stem, padding, selective_ratio):
    if depth not in _BLOCKS:
        raise ValueError(f"depth must be one of {tuple(_BLOCKS)}, got {depth!r}.")
    if padding not in residual.PADDINGS:
        raise ValueError(
            f"padding must be one of {residual.PADDINGS}, got {padding!r}."
        )
    # Half of the filters are those of the first layers of ResNet-D's stem.
    least = 2 if selective_ratio is not None and stem == "imagenet" else 1
    if int(64 * width) < least:
        raise ValueError(f"width must be at least {least} / 64, got {width!r}.")
    if selective_ratio is not None and not 0 < selective_ratio <= 1:
        raise ValueError(f"selective_ratio must be in (0, 1], got {selective_ratio!r}.")


@keras.saving.register_keras_serializable(package="tfssl")
class ResNet(remat.Blockwise):
    """A ResNet encoder: images to pooled features; `models.resnet` is its short name.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, 512 * width)`, `2048 * width` from depth 50, or `4096 * width` of
    depth 161. The features are
    float32 under mixed precision too. Rebuilt from `get_config`, so that `.keras` files
    and keras-hub's detectors can save and load it.
    `ResNet.from_config(encoder.get_config())` is a second encoder with weights of its
    own (`keras.models.clone_model` would lose the class and `pyramid_outputs`).

    Args:
        depth: 18 or 34 (two 3x3 convolutions per block), 50, 101, 152 or 200
            (bottleneck blocks, 4 times as many features), or 161, CPC v2's: the first
            three stages of ResNet-101, the third of 46 blocks of twice the filters,
            with 4096 features.
        width: float, factor on every layer's number of filters (64, 128, 256,
            512 for the stages at width 1). May be below 1, as 0.25.
        stem: `"imagenet"`, a 7x7 convolution of stride 2 and a 3x3 max-pool of
            stride 2, or `"cifar"`, a 3x3 convolution of stride 1 and no pool,
            which SimCLR's code takes for images up to 32 pixels.
        input_shape: `(height, width, channels)`; height and width may be `None`,
            channels may be any number from 1.
        norm: `"batch"`, `"layer"`, every pixel of a map over its channels, or
            `"layer_map"`, every map as a whole; the latter two see one image only, so
            that nothing of a batch tells its images (or patches) apart. Epsilon 1e-5.
        norm_statistics: whose moments batch norm takes: `"local"`, those of each
            replica's own batch, `"global"`, of the batch of all replicas (equal on one
            replica), or `"split"`, of groups of `norm_group_size` images, for MoCo on
            few devices. Momentum 0.9.
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
        zero_init_residual: whether the last norm of every residual branch
            starts with a scale of zero, so that the branch starts as nothing
            (SimCLR, MoCo v3, BYOL's code), or of one (MoCo v1 and v2, SwAV,
            DeepCluster-v2, BYOL's paper). It matters most with an optimizer that
            adapts these scales, as LARC: they then leave zero slowly.
        sobel: whether a fixed `Sobel` filter comes first and the stem gets its two
            channels, as in ResNets trained with DeepCluster.
        selective_kernels: whether the 3x3 convolution of every block is one of two
            streams, mixed per image and channel by weights that depend on the image
            (in a basic block the first of its two). ResNet-D comes with it, as in
            SimCLRv2: an ImageNet stem of three 3x3 convolutions, the first of stride
            2, the first two with half of the filters, and on the shortcuts a mean of
            2x2 pixels that takes the stride from the 1x1 convolution.
        selective_ratio: float in (0, 1], for selective kernels: filters between the
            pooled streams and their weights per filter of a stream, 32 at least.
        dtype: Keras dtype policy of the layers, as `"mixed_bfloat16"`. `None`:
            the global policy.
        name: name of the model. `None`: `"resnet<depth>"`.
        trainable: as in Keras.

    Attributes:
        pyramid_outputs: dict of Keras tensors `"P2"` … `"P5"`, the feature maps
            behind the four stages. With the ImageNet stem `"Pn"` is `2**n` times
            smaller than the image, with the CIFAR stem `2**(n - 2)` times.
        stage_outputs: dict of Keras tensors in order, `"conv1"`, the stem's (last)
            convolution behind its ReLU and before any pool, and `"res2"` … `"res5"`,
            which are `"P2"` … `"P5"`. Depth 161 ends with `"P4"` and `"res4"`.
        remat: bool, False; set it, and training keeps the outputs of the stem and of
            every residual block only, and computes the inside of a block again for its
            gradient. See `remat.Blockwise`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        google-research/simclr, tf2/resnet.py. Differences from that code: with
        `padding="fixed"` the max-pool of the stem pads both sides alike, as
        PyTorch and keras-hub do, where that code leaves this one layer at SAME;
        and `selective_kernels` gives them to ResNet-18 and 34 too, where that code
        has ResNet-D only (timm's `SelectiveKernelBasic` has them at this place).
        Chen et al., 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2); Li et al.,
        2019, https://arxiv.org/abs/1903.06586 (selective kernels, there of two
        sizes); He et al., 2018, https://arxiv.org/abs/1812.01187 (ResNet-D).
        Hénaff et al., 2019, https://arxiv.org/abs/1905.09272 (CPC v2: depth 161 and
        layer norm, whose axes the paper leaves open; here blocks of version 1).
    """

    def __init__(
        self,
        depth,
        *,
        width=1,
        stem="imagenet",
        input_shape=(None, None, 3),
        norm="batch",
        norm_statistics="local",
        norm_group_size=32,
        norm_replica_groups=1,
        padding="fixed",
        projection_in_first_block=True,
        init="simclr",
        zero_init_residual=True,
        sobel=False,
        selective_kernels=False,
        selective_ratio=0.0625,
        dtype=None,
        name=None,
        trainable=True,
    ):
        ratio = selective_ratio if selective_kernels else None
        _check_arguments(depth, width, stem, padding, ratio)
        residual.check(stem, input_shape, norm, norm_statistics, init)
        parts = residual.parts_of(
            norm=norm,
            norm_statistics=norm_statistics,
            norm_group_size=norm_group_size,
            norm_replica_groups=norm_replica_groups,
            init=init,
            dtype=dtype,
            padding=padding,
            zero_init_residual=zero_init_residual,
            selective_ratio=ratio,
        )
        x = inputs = keras.Input(tuple(input_shape), name="images")
        if sobel:
            x = sobel_lib.Sobel(dtype=parts.wide, name="sobel")(x)
        first, x = residual.stem(parts, x, int(64 * width), stem)
        pyramid, ends = {}, [x]
        for stage, (count, filters, expansion) in enumerate(_stages(depth)):
            filters = int(64 * width) * (filters // 64)
            for i in range(count):
                # Only a basic block of the first stage could do without.
                projection = i == 0 and (
                    stage > 0 or expansion > 1 or projection_in_first_block
                )
                strides = 2 if stage > 0 and i == 0 else 1
                name_of = f"stack{stage}_block{i}"
                x = residual.block(
                    parts, x, filters, expansion, strides, projection, name_of
                )
                ends.append(x)
            pyramid[f"P{stage + 2}"] = x
        features = layers.GlobalAveragePooling2D(dtype=parts.wide, name="features")(x)
        super().__init__(
            inputs=inputs,
            outputs=features,
            name=name or f"resnet{depth}",
            trainable=trainable,
        )
        self.block_ends = ends
        self.pyramid_outputs = pyramid
        self.stage_outputs = {
            "conv1": first,
            **{f"res{level[1]}": x for level, x in pyramid.items()},
        }
        self.dtype_policy = parts.policy
        self.depth = depth
        self.width = width
        self.stem = stem
        self.norm = norm
        self.norm_statistics = norm_statistics
        self.norm_group_size = norm_group_size
        self.norm_replica_groups = norm_replica_groups
        self.padding = padding
        self.projection_in_first_block = projection_in_first_block
        self.init = init
        self.zero_init_residual = zero_init_residual
        self.sobel = sobel
        self.selective_kernels = selective_kernels
        self.selective_ratio = selective_ratio

    def get_config(self):
        """Every constructor argument."""
        return {
            "depth": self.depth,
            "width": self.width,
            "stem": self.stem,
            "input_shape": tuple(self.input_shape[1:]),
            "norm": self.norm,
            "norm_statistics": self.norm_statistics,
            "norm_group_size": self.norm_group_size,
            "norm_replica_groups": self.norm_replica_groups,
            "padding": self.padding,
            "projection_in_first_block": self.projection_in_first_block,
            "init": self.init,
            "zero_init_residual": self.zero_init_residual,
            "sobel": self.sobel,
            "selective_kernels": self.selective_kernels,
            "selective_ratio": self.selective_ratio,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            **freezing.config_of(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        return freezing.made(cls, norms.renamed(config))


resnet = ResNet

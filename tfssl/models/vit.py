"""Vision transformers (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929)."""

import math

import keras
from keras import layers, ops

from tfssl import checks
from tfssl.models import freezing, image_format, remat, transformer
from tfssl.models import positions as positions_lib

_INITS = ("truncated_normal", "xavier", "beit")
_POOLINGS = ("token", "mean")
_DEFAULT_SIDE = 224  # Of images whose size is not said.


@keras.saving.register_keras_serializable(package="tfssl")
class ViT(remat.Blockwise):
    """A vision transformer as an encoder: images to pooled features.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, dim)`, float32 under mixed precision too. Norms come first in
    every block, and one more behind the pooling. Images may be of any sides that are
    multiples of `patch`: positions are interpolated.

    Args:
        dim: int, width of a token; a multiple of `heads`, and of 4 for `"sincos"`.
        depth: int, number of blocks.
        heads: int, of the attention; None: one per 64 numbers of a token.
        patch: int, side of a patch in pixels.
        input_shape: `(height, width, channels)`; height and width may be None. Learned
            and relative positions are for this size.
        mlp_ratio: float, width of a block's hidden layer over `dim`.
        positions: `"learned"`, one per patch; `"sincos"`, fixed sines and cosines;
            `"none"`.
        relative: `"none"`; `"shared"` or `"blocks"`: attention also gets numbers for
            how far two patches are apart, the same in all blocks or of each its own.
        position_side: int, side of the square images that they are for instead, as
            the largest of several crops. None: `input_shape`, or 224.
        class_token: whether a learned token joins the patches.
        distillation_token: whether a second one does, DeiT's: features `(batch, 2 dim)`
            are those of the class token, then its own. `methods.Distillation` teaches
            each by itself. It needs `pooling="token"` and `relative="none"`.
        pooling: `"token"`, the class token, or `"mean"`, that of the patches.
        layer_scale: float, what the factors on the branches start with; None: there
            are none. 0.1 and 1e-5 in BEiT's base and large networks.
        drop_path: float in [0, 1), how often an image skips a branch of the last block
            in training (stochastic depth); it grows linearly from 0 at the first.
        init: how kernels start. `"truncated_normal"`: normal with a deviation of 0.02
            (DINO, DeiT: PyTorch's `trunc_normal_` cuts at -2 and 2, where nothing is).
            `"xavier"`: uniform by fan in and fan out, queries, keys and values for
            themselves (MoCo v3; its class token's deviation is 1e-6). `"beit"`: the
            first, with the last layers of block `l` divided by `sqrt(2 l)`.
        freeze_patches: whether the projection of the patches stays as it starts, which
            keeps MoCo v3 stable.
        dtype: Keras dtype policy. None: the global policy.
        name: name of the model. None: `"vit"`.
        trainable: as in Keras.

    Attributes:
        stage_outputs: dict of Keras tensors in order, `"patches"`, the map of patches
            with their positions, and `"block1"` …, that behind each block. All are
            `patch` times smaller than the image.
        block_layers: list of the blocks, `transformer.Block`.
        token_outputs: Keras tensor `(batch, tokens, dim)`, what the last block gives,
            the class token first, then the distillation token if there is one, before
            the last norm.
        remat: bool, False; see `remat.Blockwise`.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        The base network at 224 pixels, patch 16, has 85.8 million parameters, as
        timm's without head. Differences: the class token has no position of its own,
        which would be a second summand to a token that is learned already; `pooling`
        comes before the last norm, which is the same for the class token, and for the
        mean as in BEiT's and MAE's fine-tuning. The distillation token is that of
        Touvron et al., 2021, https://arxiv.org/abs/2012.12877, without a position too.
    """

    def __init__(
        self,
        dim=768,
        *,
        depth=12,
        heads=None,
        patch=16,
        input_shape=(None, None, 3),
        mlp_ratio=4.0,
        positions="learned",
        relative="none",
        position_side=None,
        class_token=True,
        distillation_token=False,
        pooling="token",
        layer_scale=None,
        drop_path=0.0,
        init="truncated_normal",
        freeze_patches=False,
        dtype=None,
        name=None,
        trainable=True,
    ):
        settings = dict(
            dim=dim,
            depth=depth,
            heads=max(1, dim // 64) if heads is None and dim else heads,
            patch=patch,
            input_shape=tuple(input_shape),
            mlp_ratio=mlp_ratio,
            positions=positions,
            relative=relative,
            position_side=position_side,
            class_token=class_token,
            distillation_token=distillation_token,
            pooling=pooling,
            layer_scale=layer_scale,
            drop_path=drop_path,
            init=init,
            freeze_patches=freeze_patches,
        )
        _check_arguments(settings)
        policy = keras.dtype_policies.get(dtype)
        wide = "float64" if policy.compute_dtype == "float64" else "float32"
        inputs = keras.Input((None, None, input_shape[2]), name="images")
        maps = _patches(settings, policy)(inputs)
        grid = _grid(settings)
        x = positions_lib.Tokens(
            grid,
            positions=positions,
            class_token=class_token,
            class_std=1e-6 if init == "xavier" else 0.02,
            distillation_token=distillation_token,
            relative=relative != "none",
            dtype=policy,
            name="tokens",
        )(maps)
        ends, blocks = [x], _blocks(settings, grid, policy)
        for block in blocks:
            x = block(x)
            ends.append(x)
        pooled = Pool(
            pooling, class_token, distillation_token, dtype=wide, name="pool"
        )(x)
        features = layers.LayerNormalization(
            epsilon=transformer.EPSILON, dtype=wide, name="features"
        )(pooled)
        if distillation_token:
            features = layers.Flatten(dtype=wide, name="both_tokens")(features)
        super().__init__(
            inputs=inputs, outputs=features, name=name or "vit", trainable=trainable
        )
        self.block_ends = ends
        self.block_layers = blocks
        self.token_outputs = x
        as_map = transformer.AsMap(dtype=policy, name="as_map")
        names = ["patches", *(f"block{i}" for i in range(1, depth + 1))]
        self.stage_outputs = {
            stage: as_map([end, maps]) for stage, end in zip(names, ends)
        }
        self.dtype_policy = policy
        self.settings = settings

    def check_images(self, height, width):
        """Raises `ValueError` for images of a size that it does not take."""
        patch = self.settings["patch"]
        check_sides((height, width), patch)
        if self.settings["relative"] != "none":
            table = self.get_layer("tokens").grid
            positions_lib.check_relative(table, (height // patch, width // patch))

    def get_config(self):
        """Every constructor argument."""
        return {
            **self.settings,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            **freezing.config_of(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        return freezing.made(cls, config)


vit = ViT


@keras.saving.register_keras_serializable(package="tfssl")
class Patches(layers.Conv2D):
    """Every patch of an image times a matrix; refuses images that it does not divide.

    Args:
        filters: int, width of a token.
        patch: int, side of a patch.
        **kwargs: of `keras.layers.Conv2D`.
    """

    def __init__(self, filters, patch, **kwargs):
        super().__init__(filters, patch, strides=patch, padding="valid", **kwargs)
        self.patch = patch

    def call(self, images):
        check_sides(images.shape[1:3], self.patch)
        if self.trainable:
            return super().call(images)
        # Or TensorFlow's tape, which watches frozen variables too, went through them.
        maps = self.convolution_op(images, ops.stop_gradient(self.kernel))
        return maps + ops.stop_gradient(self.bias)

    def get_config(self):
        config = super().get_config()
        for name in ("kernel_size", "strides", "padding"):
            del config[name]
        return {**config, "patch": self.patch}


@keras.saving.register_keras_serializable(package="tfssl")
class Pool(layers.Layer):
    """Tokens to one vector: the class token, or the mean of the patches.

    Args:
        pooling: `"token"` or `"mean"`.
        class_token: whether the first token is that of the class.
        distillation_token: whether the second one goes along with it.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, pooling, class_token, distillation_token=False, **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling
        self.class_token = class_token
        self.distillation_token = distillation_token

    def call(self, tokens):
        """`(batch, tokens, dim)` -> `(batch, dim)`; of two tokens `(batch, 2, dim)`."""
        if self.distillation_token:
            return tokens[:, :2]
        if self.pooling == "token":
            return tokens[:, 0]
        return ops.mean(tokens[:, int(self.class_token) :], axis=1)

    def compute_output_shape(self, input_shape):
        both = (2,) if self.distillation_token else ()
        return (input_shape[0], *both, input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "class_token": self.class_token,
            "distillation_token": self.distillation_token,
        }


def check_sides(sides, patch):
    """Raises `ValueError` unless sides that are known are multiples of `patch`."""
    if any(side is not None and (side < patch or side % patch) for side in sides):
        height, width = ("?" if side is None else side for side in sides)
        nearest = [
            max(patch, round(side / patch) * patch)
            for side in sides
            if side is not None
        ]
        raise ValueError(
            f"Images of {height} x {width} pixels received by a vision transformer of "
            f"patches of {patch} pixels, which do not divide them; give sides that are "
            f"multiples of {patch}, as {nearest[0]}, or another patch."
        )


def _check_arguments(given):
    image_format.check()
    checks.whole(given, "dim", "depth", "heads", "patch")
    checks.whole(given, "position_side", optional=True)
    checks.positive(given, "mlp_ratio")
    checks.positive(given, "layer_scale", optional=True)
    checks.one_of(given, "positions", positions_lib.KINDS)
    checks.one_of(given, "relative", positions_lib.RELATIVE)
    checks.one_of(given, "pooling", _POOLINGS)
    checks.one_of(given, "init", _INITS)
    checks.fraction_below_one(given, "drop_path")
    dim, heads = given["dim"], given["heads"]
    if dim % heads:
        raise ValueError(
            f"dim={dim} received with heads={heads}, expected a multiple of it."
        )
    if given["positions"] == "sincos" and dim % 4:
        raise ValueError(
            f"dim={dim} received with positions='sincos', expected a multiple of 4."
        )
    if given["pooling"] == "token" and not given["class_token"]:
        raise ValueError(
            "pooling='token' received with class_token=False; choose pooling='mean', "
            "or have the token."
        )
    for name, needed in (("pooling", "token"), ("relative", "none")):
        if given["distillation_token"] and given[name] != needed:
            raise ValueError(
                f"{name}={given[name]!r} received with distillation_token=True, "
                f"expected {needed!r}."
            )
    shape = given["input_shape"]
    if len(shape) != 3 or not shape[2]:
        raise ValueError(
            "input_shape must be (height, width, channels) with channels known and "
            f"height and width possibly None, got {shape!r}."
        )
    check_sides(shape[:2], given["patch"])
    if given["position_side"] is not None:
        check_sides([given["position_side"]] * 2, given["patch"])


def _grid(given):
    """`(rows, columns)` of patches that the positions are for."""
    sides = given["input_shape"][:2]
    if given["position_side"] is not None:
        sides = [given["position_side"]] * 2
    sides = [_DEFAULT_SIDE if side is None else side for side in sides]
    return tuple(max(1, side // given["patch"]) for side in sides)


def _patches(given, policy):
    """The layer that projects patches."""
    dim, patch = given["dim"], given["patch"]
    if given["init"] == "xavier":
        # By the fans of a dense layer: a patch's numbers, and one token.
        inside = given["input_shape"][2] * patch * patch
        start = _uniform(inside + dim)
    else:
        start = keras.initializers.RandomNormal(stddev=0.02)
    return Patches(
        dim,
        patch,
        kernel_initializer=start,
        trainable=not given["freeze_patches"],
        dtype=policy,
        name="patches",
    )


def _uniform(fans):
    limit = math.sqrt(6 / fans)
    return keras.initializers.RandomUniform(-limit, limit)


def _blocks(given, grid, policy):
    dim, depth = given["dim"], given["depth"]

    def relative(name):
        return positions_lib.RelativeBias(
            grid,
            given["heads"],
            class_token=given["class_token"],
            dtype=policy,
            name=name,
        )

    kind = given["relative"]
    shared = relative("relative") if kind == "shared" else None
    return [
        transformer.Block(
            given["heads"],
            mlp_ratio=given["mlp_ratio"],
            layer_scale=given["layer_scale"],
            drop_path=given["drop_path"] * i / max(depth - 1, 1),
            inits=_inits(given["init"], dim, i + 1),
            relative=relative("relative") if kind == "blocks" else shared,
            dtype=policy,
            name=f"block{i + 1}",
        )
        for i in range(depth)
    ]


def _inits(name, dim, number):
    """Makers of initializers for a block's kernels, as `transformer.Block` wants."""
    if name == "xavier":
        general = keras.initializers.GlorotUniform
        return {"one": general, "three": lambda: _uniform(2 * dim), "last": general}
    std = 0.02 / math.sqrt(2 * number) if name == "beit" else 0.02

    def normal(std=0.02):
        return keras.initializers.RandomNormal(stddev=std)

    return {"one": normal, "three": normal, "last": lambda: normal(std)}

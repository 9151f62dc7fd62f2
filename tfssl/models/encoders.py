"""Encoders by name, for flags and notebooks."""

import functools

from tfssl import internals
from tfssl.models import branches, patch_encoder
from tfssl.models import remat as remat_lib
from tfssl.models.alexnet import AlexNet
from tfssl.models.resnet import ResNet
from tfssl.models.revnet import RevNet
from tfssl.models.vgg import VGG
from tfssl.models.vit import ViT

_RESNETS = {
    f"resnet{depth}": functools.partial(ResNet, depth)
    for depth in (18, 34, 50, 101, 152, 161, 200)
}
_SINGLE = _RESNETS | {
    "revnet50": RevNet,
    "alexnet": AlexNet,
    "vgg16": functools.partial(VGG, 16),
    "vit_tiny_4": functools.partial(ViT, dim=192, patch=4, name="vit_tiny_4"),
    "vit_small_4": functools.partial(ViT, dim=384, patch=4, name="vit_small_4"),
    "vit_tiny_16": functools.partial(ViT, dim=192, name="vit_tiny_16"),
    "vit_small_16": functools.partial(ViT, dim=384, name="vit_small_16"),
    "vit_base_16": functools.partial(ViT, dim=768, name="vit_base_16"),
    "vit_large_16": functools.partial(ViT, dim=1024, depth=24, name="vit_large_16"),
}
ENCODERS = _SINGLE | {
    "branches": branches.builder(_SINGLE),
    "patches": patch_encoder.builder(_RESNETS),
}


def encoder(name, *, input_shape, remat=False, **kwargs):
    """Builds the encoder of this name.

    Args:
        name: a key of `ENCODERS`, as `"resnet50"`.
        input_shape: `(height, width, channels)`; height and width may be `None` for
            a ResNet or ViT.
        remat: bool, whether training computes activations again instead of keeping
            them: all inside of the stem and of each residual block (AlexNet, VGG: of
            each stage; ViT: of each block). Less memory for about a third more
            computation, and the same result but for rounding. Not kept in files, see
            `remat.Blockwise`.
        **kwargs: further arguments of the class, as `width=0.25`. `"branches"` and
            `"patches"`, which are made of encoders, take those of theirs, too: see
            `branches.builder` and `patch_encoder.builder`.

    Returns:
        A Keras model: images to features `(batch, dim)`, with a dict `stage_outputs`
        of feature maps.

    Raises:
        ValueError: if the name is unknown, or the class refuses an argument.
    """
    if name not in ENCODERS:
        raise ValueError(
            f"Unknown encoder {name!r}; valid names are {', '.join(ENCODERS)}."
        )
    network = ENCODERS[name](input_shape=input_shape, **kwargs)
    if remat:
        remat_lib.switch_on(network)
    return network


def check_images(network, height, width):
    """Raises `ValueError` for images of a size that a network cannot take.

    Args:
        network: Keras model. What is inside of it and has a function `check_images`,
            as a vision transformer, is asked.
        height: int.
        width: int.
    """
    for part in internals.layers_of(network):
        if hasattr(part, "check_images"):
            part.check_images(height, width)

"""Encoders by name, for flags and notebooks."""

import functools
import inspect

from tfssl import checks
from tfssl.models import remat as remat_lib
from tfssl.models.alexnet import AlexNet
from tfssl.models.patch_encoder import PatchEncoder
from tfssl.models.resnet import ResNet
from tfssl.models.vgg import VGG

_RESNETS = {
    f"resnet{depth}": functools.partial(ResNet, depth)
    for depth in (18, 34, 50, 101, 152, 161, 200)
}


def _patches(
    *, input_shape, of="resnet18", patch=80, stride=36, norm="layer", name=None, **more
):
    """Builds a `PatchEncoder` of a ResNet, which gets the further arguments."""
    checks.one_of({"of": of}, "of", tuple(_RESNETS))
    inner = _RESNETS[of](input_shape=(None, None, input_shape[-1]), norm=norm, **more)
    return PatchEncoder(
        inner, patch=patch, stride=stride, image_shape=input_shape, name=name
    )


def _with_those_of(builder, function):
    """The signature of a function whose further arguments are those of a builder."""
    own = inspect.signature(function)
    found = dict(inspect.signature(builder).parameters) | dict(own.parameters)
    return own.replace(
        parameters=[p for p in found.values() if p.kind is p.KEYWORD_ONLY]
    )


_patches.__signature__ = _with_those_of(_RESNETS["resnet18"], _patches)

ENCODERS = _RESNETS | {
    "alexnet": AlexNet,
    "vgg16": functools.partial(VGG, 16),
    "patches": _patches,
}


def encoder(name, *, input_shape, remat=False, **kwargs):
    """Builds the encoder of this name.

    Args:
        name: a key of `ENCODERS`, as `"resnet50"`.
        input_shape: `(height, width, channels)`; height and width may be `None` for
            a ResNet.
        remat: bool, whether training computes activations again instead of keeping
            them: all inside of the stem and of each residual block (AlexNet, VGG: of
            each stage). Less memory for about a third more computation, and the same
            result but for rounding. Not kept in files, see `remat.Blockwise`.
        **kwargs: further arguments of the class, as `width=0.25`. Those of `"patches"`,
            a `PatchEncoder`, are `of`, the name of a ResNet, `patch` and `stride` (80
            and 36 as in CPC v2), and those of that ResNet, with `norm="layer"`.

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

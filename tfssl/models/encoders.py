"""Encoders by name, for flags and notebooks."""

import functools

from tfssl.models import patch_encoder
from tfssl.models import remat as remat_lib
from tfssl.models.alexnet import AlexNet
from tfssl.models.resnet import ResNet
from tfssl.models.vgg import VGG

_RESNETS = {
    f"resnet{depth}": functools.partial(ResNet, depth)
    for depth in (18, 34, 50, 101, 152, 161, 200)
}
ENCODERS = _RESNETS | {
    "alexnet": AlexNet,
    "vgg16": functools.partial(VGG, 16),
    "patches": patch_encoder.builder(_RESNETS),
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
        **kwargs: further arguments of the class, as `width=0.25`.

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

"""Encoders by name, for flags and notebooks."""

import functools

import keras

from tfssl import internals
from tfssl.models import branches as branches_lib
from tfssl.models import lab, normals, patch_encoder
from tfssl.models import remat as remat_lib
from tfssl.models.alexnet import AlexNet
from tfssl.models.resnet import ResNet
from tfssl.models.vgg import VGG
from tfssl.models.vit import ViT

_RESNETS = {
    f"resnet{depth}": functools.partial(ResNet, depth)
    for depth in (18, 34, 50, 101, 152, 161, 200)
}
ENCODERS = _RESNETS | {
    "alexnet": AlexNet,
    "vgg16": functools.partial(VGG, 16),
    "vit_tiny_4": functools.partial(ViT, dim=192, patch=4, name="vit_tiny_4"),
    "vit_small_4": functools.partial(ViT, dim=384, patch=4, name="vit_small_4"),
    "vit_tiny_16": functools.partial(ViT, dim=192, name="vit_tiny_16"),
    "vit_small_16": functools.partial(ViT, dim=384, name="vit_small_16"),
    "vit_base_16": functools.partial(ViT, dim=768, name="vit_base_16"),
    "vit_large_16": functools.partial(ViT, dim=1024, depth=24, name="vit_large_16"),
    "patches": patch_encoder.builder(_RESNETS),
}
# What stands in front of the branches, and the views of the first three channels.
_COLORS = {
    "lab": (lab.Lab, {"L": (0,), "ab": (1, 2)}),
    "ycbcr": (lab.YCbCr, {"Y": (0,), "CbCr": (1, 2)}),
    "rgb": (None, None),
}
_HALF = 0.5


def branches(
    *,
    input_shape,
    of="resnet18",
    color="lab",
    views=None,
    depth_channel=None,
    **arguments,
):
    """One encoder per view of an image, see `models.Branches`.

    Args:
        input_shape: `(height, width, channels)` of the images.
        of: name of the encoder that every view has one of.
        color: what is made of the first three channels, red, green and blue: `"lab"`,
            `"ycbcr"`, or `"rgb"` for images as they are.
        views: dict from the name of a view to its channels, behind that change:
            `{"L": (0,), "ab": (1, 2), "depth": (3,)}`. None takes brightness and colour
            of `"lab"` (L, ab) or `"ycbcr"` (Y, CbCr).
        depth_channel: the channel that is depth, as `models.Normals` takes it: its
            surface normals are then three more channels, behind all of the image's.
        **arguments: of the encoders, as `stem="cifar"`. `width` is 0.5 unless given, as
            in CMC: two branches are then about as large as one network.

    Returns:
        `models.Branches`.

    Raises:
        ValueError: for unknown names, views that the images do not have, and images
            without colour where there is to be some.
    """
    front, usual = _colors(color)
    views = usual if views is None else views
    if not isinstance(views, dict) or not views:
        raise ValueError(
            f"views={views!r} received with color={color!r}, expected a dict from the "
            "name of a view to its channels, as {'L': (0,), 'depth': (3,)}."
        )
    views = {
        view: tuple(group) if isinstance(group, list | tuple) else (group,)
        for view, group in views.items()
    }
    front = [] if front is None else [front(name="colors")]
    if depth_channel is not None:
        front.append(normals.Normals(depth_channel, name="normals"))
    images = keras.Input(input_shape)
    for layer in front:
        images = layer(images)
    for view, group in views.items():
        branches_lib.check_group(view, group, images.shape[-1])
    build = _builder_of_branches(of)
    arguments = {"width": _HALF} | arguments
    networks = {}
    for view, group in views.items():
        shape = (*input_shape[:2], len(group))
        with keras.name_scope(view):  # Paths of variables that tell views apart.
            networks[view] = build(input_shape=shape, name=f"{view}_{of}", **arguments)
    return branches_lib.Branches(networks, views, input_shape=input_shape, front=front)


ENCODERS["branches"] = branches


def _colors(color):
    if color not in _COLORS:
        raise ValueError(f"color must be one of {tuple(_COLORS)}, got {color!r}.")
    return _COLORS[color]


def _builder_of_branches(of):
    known = [name for name in ENCODERS if name != "branches"]
    if of not in known:
        raise ValueError(f"of must be one of {', '.join(known)}, got {of!r}.")
    return ENCODERS[of]


def builders(name, arguments):
    """The functions that take the arguments of an encoder, a tuple.

    Args:
        name: a key of `ENCODERS`.
        arguments: dict; `of` says whose arguments those of `"branches"` are.
    """
    if name != "branches":
        return (ENCODERS[name],)
    return branches, _builder_of_branches(arguments.get("of", "resnet18"))


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

"""Feature maps: those inside of a network, and a map in other rows and columns."""

import keras
import tensorflow as tf
from keras import ops

_SHOWN = 8  # Names in a message.


def stages_of(network):
    """The stages that a network names, a dict of name to Keras tensor, in order.

    Raises:
        ValueError: if it names none.
    """
    outputs = getattr(network, "stage_outputs", None)
    if not outputs:
        raise ValueError(
            f"The encoder {network.name!r} ({type(network).__name__}) names no stages "
            "(it has no stage_outputs); take one of tfssl's own, such as resnet50."
        )
    return outputs


def up_to(network, layer=None):
    """The part of a network up to a feature map.

    Args:
        network: a functional Keras model of images, as all of tfssl's own are.
        layer: name of a stage (a key of its `stage_outputs`) or of a layer; None takes
            the last map, which most networks pool.

    Returns:
        Keras model, images -> `(batch, height, width, channels)`. It shares the layers
        of the network.

    Raises:
        ValueError: if the network has no such map, or is no graph of layers.
    """
    maps = _maps(network)
    if layer is None:
        layer = next(reversed(maps))
    if layer not in maps:
        named = list(getattr(network, "stage_outputs", {}) or maps)
        more = f"{len(named) - _SHOWN} more, " if len(named) > _SHOWN else ""
        raise ValueError(
            f"layer {layer!r} received, but the feature maps of {network.name!r} are "
            f"{more}{', '.join(named[-_SHOWN:])}."
        )
    try:
        return keras.Model(network.inputs[0], maps[layer])
    except ValueError as error:
        raise ValueError(
            f"The feature map {layer!r} of {network.name!r} is inside of a network of "
            "its own, which the images do not reach; name a layer outside."
        ) from error


def resized(maps, size, method="bilinear"):
    """`tf.image.resize(…, antialias=True)` as two products, which XLA compiles.

    Args:
        maps: float `(batch, height, width, channels)`, images or feature maps, whose
            height and width are known.
        size: `(rows, columns)` of the result.
        method: `"bilinear"` or `"bicubic"`.

    Returns:
        float32 `(batch, rows, columns, channels)`; a side that fits stays as it is.

    Raises:
        ValueError: for maps of unknown size.
    """
    if None in maps.shape[1:3]:
        raise ValueError(
            f"Images or maps of unknown size, {maps.shape}, cannot be resized in a "
            "step; give batches whose height and width are known."
        )
    maps = ops.cast(maps, "float32")
    for equation, length, number in zip(
        ("nh,bhwc->bnwc", "nw,bhwc->bhnc"), maps.shape[1:3], size
    ):
        if length != number:
            weights = resize_weights(length, number, method)
            maps = ops.einsum(equation, weights, maps)
    return maps


def resize_weights(length, number, method):
    """The weights of a resize along one side, those of `tf.image.resize` antialiased.

    Args:
        length: int, rows that there are.
        number: int, rows of the result.
        method: `"bilinear"` or `"bicubic"`.

    Returns:
        float32 array `(number, length)`: the weight of every old row in the new ones.
    """
    with tf.init_scope(), tf.device("CPU"):
        rows = tf.eye(length)[..., None]
        found = tf.image.resize(rows, [number, length], method, antialias=True)
        return found.numpy()[..., 0]


def _maps(network):
    """Every feature map by name, from the input on; the stages last."""
    if not getattr(network, "inputs", None):
        raise ValueError(
            f"The network {network.name!r} is no graph of layers, and shows no feature "
            "maps; pass one made with keras.Model(inputs, outputs)."
        )
    found = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        output = layer.output
        if hasattr(output, "shape") and len(output.shape) == 4:
            found[layer.name] = output
    stages = getattr(network, "stage_outputs", {})
    found = {k: v for k, v in found.items() if k not in stages} | stages
    if not found:
        raise ValueError(
            f"The network {network.name!r} has no feature map (batch, height, width, "
            "channels); let it give its features instead."
        )
    return found

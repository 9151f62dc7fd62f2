"""Which layers of an encoder train, also in its config, and how deep variables lie."""

import collections

import keras

from tfssl.models import feature_maps


def thaw(network):
    """Makes every layer of a network trainable.

    A model whose own flag is set may still hold frozen layers.
    """
    network.trainable = True
    for inner in getattr(network, "layers", ()):
        thaw(inner)


def freeze(network, upto):
    """Freezes a network from its input up to a stage, and thaws all else.

    A batch norm that is frozen uses its moving statistics, and does not change them.

    Args:
        network: a built Keras model.
        upto: `"none"`, `"all"`, a name in its `stage_outputs`, or of one of its layers,
            which freezes too.

    Raises:
        ValueError: for a name that is neither, or where nothing would be frozen.
    """
    thaw(network)
    if upto == "none":
        return
    if upto == "all":
        network.trainable = False
        return
    for layer in _layers_up_to(network, _output_of(network, upto)):
        layer.trainable = False


def depths(network):
    """How deep the variables of a network lie, counted from its end.

    Args:
        network: a Keras model with `stage_outputs`.

    Returns:
        `{id of a Keras variable: depth}`: 1 in its last stage, 2 in the one before, …;
        0 behind the stages (a last norm, layers of a head), and of what several layers
        share (BEiT's relative positions of all blocks).

    Raises:
        ValueError: if it names no stages.
    """
    stages = feature_maps.stages_of(network)
    found, layers = {id(variable): 0 for variable in network.variables}, {}
    for depth, output in enumerate(reversed(stages.values()), 1):
        for layer in _layers_up_to(network, output):
            # Earlier stages come later, and take what is theirs.
            found |= {id(variable): depth for variable in layer.variables}
            layers[id(layer)] = layer
    owners = collections.Counter(
        id(variable) for layer in layers.values() for variable in layer.variables
    )
    return {key: 0 if owners[key] > 1 else depth for key, depth in found.items()}


def begin(network, trainable):
    """What its constructor was told; Keras would tell a network without layers yet."""
    if not trainable:
        network.trainable = False


def config_of(network):
    """The entries of a config: whether a network trains, and which layers do not.

    Args:
        network: a functional Keras model of ours.
    """
    config = {"trainable": network.trainable}
    frozen = [layer.name for layer in network.layers if _is_frozen(layer)]
    if network.trainable and frozen:
        config["frozen"] = frozen
    return config


def made(kind, config):
    """A network of a config that has these entries.

    Args:
        kind: its class.
        config: dict, the arguments of its constructor, and perhaps `"frozen"`.
    """
    config = dict(config)
    frozen = config.pop("frozen", ())
    network = kind(**config)
    for name in frozen:
        network.get_layer(name).trainable = False
    return network


def _output_of(network, name):
    stages = getattr(network, "stage_outputs", None) or {}
    if name in stages:
        return stages[name]
    layers = {layer.name: layer for layer in getattr(network, "layers", ())}
    if getattr(network, "inputs", None) and name in layers:
        return layers[name].output
    known = ", ".join(stages) if stages else "the name of one of its layers"
    raise ValueError(
        f"freeze={name!r} received, expected none, all or a stage of the encoder "
        f"{network.name!r} ({known})."
    )


def _layers_up_to(network, output):
    return keras.Model(network.inputs, output).layers


def _is_frozen(layer):
    return bool(layer.weights) and not layer.trainable

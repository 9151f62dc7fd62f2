"""What of a network does not train, in its config: so that a file keeps it."""


def begin(network, trainable):
    """What its constructor was told; Keras would tell a network without layers yet."""
    if not trainable:
        network.trainable = False


def of(network):
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


def _is_frozen(layer):
    return bool(layer.weights) and not layer.trainable

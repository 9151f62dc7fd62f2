"""Copies of networks: the same architecture, weights of their own."""

import keras

from tfssl import internals

# What Keras raises for a network that its config does not describe.
_NO_CONFIG = (TypeError, ValueError, NotImplementedError)


def copied(network, purpose, policy=None):
    """The same architecture with variables of its own, and the same weights.

    Its variables are made where this is called: under a strategy, for its devices.

    Args:
        network: a built Keras model.
        purpose: what the copy is for, in words: `"a target network"`.
        policy: name of the dtype policy of every layer of the copy; None keeps theirs.

    Raises:
        ValueError: if the network cannot be made of its config.
    """
    try:
        copy = _made_again(network)
    except _NO_CONFIG as error:
        raise ValueError(
            f"The network {network.name!r} cannot be copied for {purpose} "
            f"({_first_line(error)}); register its classes with "
            "keras.saving.register_keras_serializable and give them get_config."
        ) from error
    copy.set_weights(network.get_weights())
    if policy is not None:
        for layer in internals.layers_of(copy):
            layer.dtype_policy = keras.dtype_policies.get(policy)
    return copy


def unreadable(network):
    """Why no `.keras` file gives a network back, in words, or None.

    Such a one may be trained, and used as long as its process lasts.

    Args:
        network: a built Keras model.
    """
    try:
        _made_again(network)
    except _NO_CONFIG as error:
        return _first_line(error)
    return None


def _made_again(network):
    config = keras.saving.serialize_keras_object(network)
    return keras.saving.deserialize_keras_object(config)


def _first_line(error):
    return str(error).strip().splitlines()[0]

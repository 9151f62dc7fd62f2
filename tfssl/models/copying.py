"""Copies of networks: the same architecture, weights of their own."""

import keras

from tfssl import internals


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
        config = keras.saving.serialize_keras_object(network)
        copy = keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The network {network.name!r} cannot be copied for {purpose} "
            f"({first}); register its classes with "
            "keras.saving.register_keras_serializable and give them get_config."
        ) from error
    copy.set_weights(network.get_weights())
    if policy is not None:
        for layer in internals.layers_of(copy):
            layer.dtype_policy = keras.dtype_policies.get(policy)
    return copy

"""Copies of networks: the same architecture with variables of its own."""

import keras


def copied(network, policy=None):
    """The same architecture with variables of its own, and the same weights.

    Args:
        network: a built Keras model whose classes are registered with Keras.
        policy: name of the dtype policy of every layer of the copy; None keeps theirs.

    Raises:
        ValueError: if it cannot be copied from its config.
    """
    try:
        config = keras.saving.serialize_keras_object(network)
        made = keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The network {network.name!r} cannot be copied ({first}); register its "
            "classes with keras.saving.register_keras_serializable and give them "
            "get_config."
        ) from error
    made.set_weights(network.get_weights())
    if policy is not None:
        _compute_in(made, keras.dtype_policies.get(policy))
    return made


def _compute_in(layer, policy):
    layer.dtype_policy = policy
    for inner in getattr(layer, "layers", ()):
        _compute_in(inner, policy)

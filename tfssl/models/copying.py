"""Copies of networks: the same architecture, weights of their own."""

import keras

from tfssl import internals
from tfssl.models import sobel

# What Keras raises for a network that its config does not describe.
_NO_CONFIG = (TypeError, ValueError, NotImplementedError)
# Layers of pixels, for which half precision has too few digits.
_OF_PIXELS = (keras.layers.Rescaling, keras.layers.Normalization, sobel.Sobel)
_WIDE = "float32"


def copied(network, purpose, policy=None):
    """The same architecture with variables of its own, and the same weights.

    Its variables are made where this is called: under a strategy, for its devices. The
    copy is not compiled, whatever the network is.

    With a policy it is what its config describes, and so what its file gives back: of
    a network in mixed precision the layers that are float32 stay so. In a network that
    is float32 altogether those stay that its classes make so, layers of pixels, and
    the last layer of all, which gives the features.

    Args:
        network: a built Keras model.
        purpose: what the copy is for, in words: `"a target network"`.
        policy: name of the dtype policy that the copy computes in; None keeps that of
            every layer.

    Raises:
        ValueError: if the network cannot be made of its config.
    """
    try:
        config = keras.saving.serialize_keras_object(network)
        _leave_out(config, "compile_config")
        if policy is not None:
            _change_policies(config, policy, _staying(network, policy))
        copy = keras.saving.deserialize_keras_object(config)
    except _NO_CONFIG as error:
        raise ValueError(
            f"The network {network.name!r} cannot be copied for {purpose} "
            f"({_first_line(error)}); register its classes with "
            "keras.saving.register_keras_serializable and give them get_config."
        ) from error
    copy.set_weights(network.get_weights())
    for layer in internals.layers_of(copy):
        # It computes with what it has made of its weights.
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()
    return copy


def without_optimizer(network):
    """A network to be saved: itself, or a copy that is not compiled.

    What is compiled, at any depth, is saved with its optimizer, twice as large as the
    weights. One that its config does not describe stays as it is.

    Args:
        network: a built Keras model.
    """
    if not any(
        getattr(part, "compiled", False) for part in internals.layers_of(network)
    ):
        return network
    try:
        return copied(network, "a file without an optimizer")
    except ValueError:
        return network


def policy_of(network):
    """Name of the dtype policy that a network computes in.

    Layers that are float32 for their own reasons do not count beside others.

    Args:
        network: a built Keras model.
    """
    names = [
        layer.dtype_policy.name
        for layer in internals.layers_of(network)
        if layer.weights and not getattr(layer, "layers", ())
    ]
    return next((name for name in names if name != _WIDE), _WIDE)


def unreadable(network):
    """Why no `.keras` file gives a network back, in words, or None.

    Such a one may be trained, and used as long as its process lasts.

    Args:
        network: a built Keras model.
    """
    try:
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(network)
        )
    except _NO_CONFIG as error:
        return _first_line(error)
    return None


def _staying(network, policy):
    """Whether a layer of this name, of this policy, keeps it: a function."""
    if policy == _WIDE:
        return lambda name, own: False
    if policy_of(network) != _WIDE:
        return lambda name, own: own == _WIDE
    names = {
        layer.name
        for layer in internals.layers_of(network)
        if isinstance(layer, _OF_PIXELS) or not layer.autocast
    }
    names.add(_last(network))
    return lambda name, own: name in names


def _last(network):
    """Name of the layer that gives a network's output, None of no graph."""
    while getattr(network, "outputs", None):
        network, _ = internals.made_of(network.outputs[0])
    return getattr(network, "name", None)


def _change_policies(config, policy, stays):
    """Has the layers of a serialized network compute in a policy, in place."""
    if isinstance(config, list | tuple):
        for part in config:
            _change_policies(part, policy, stays)
    if not isinstance(config, dict):
        return
    own = config.get("dtype")
    # The dtype of an input is a text.
    if isinstance(own, dict) and own.get("class_name") == "DTypePolicy":
        if not stays(config.get("name"), own["config"]["name"]):
            config["dtype"] = keras.dtype_policies.serialize(
                keras.dtype_policies.get(policy)
            )
    for part in config.values():
        _change_policies(part, policy, stays)


def _leave_out(config, name):
    """Removes what has this name from a serialized network, in place."""
    if isinstance(config, dict):
        config.pop(name, None)
        config = config.values()
    elif not isinstance(config, list | tuple):
        return
    for part in config:
        _leave_out(part, name)


def _first_line(error):
    return str(error).strip().splitlines()[0]

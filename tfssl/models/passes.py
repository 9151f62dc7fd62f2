"""A pass of a network as a function of its input and of its variables' values."""

import keras
import tensorflow as tf

from tfssl import internals, pieces, replicas


def stateless(network, x, values, training=True):
    """Runs a network on given values of its variables, and changes none.

    Args:
        network: built Keras model.
        x: its input.
        values: list of tensors, one for each of its trainable and then of its
            non-trainable variables.
        training: bool.

    Returns:
        `(output, before, after)`, the latter lists of the values of the non-trainable
        variables; a value that the pass leaves alone is the same object in both.
    """
    others = network.non_trainable_variables
    mapping = zip((*network.trainable_variables, *others), values, strict=True)
    with keras.StatelessScope(mapping) as scope:
        before = [scope.get_current_value(v) for v in others]
        y = network(x, training=training)
        after = [scope.get_current_value(v) for v in others]
    return y, before, after


class Compiled:
    """The passes of a network, each compiled by XLA as a piece of a step.

    What a pass changes (moving statistics) is changed behind it, by the mean over all
    replicas of what each has found.

    Args:
        network: built Keras model, of which `fits` is true.
    """

    def __init__(self, network):
        self._network = network
        self._function = {
            training: pieces.compiled(self._with_training(training))
            for training in (True, False)
        }
        self._changed = {}

    def __call__(self, inputs, training):
        """The output for `inputs`, as the network's own call would give it."""
        network, training = self._network, bool(training)
        variables = network.trainable_variables + network.non_trainable_variables
        given = [tf.convert_to_tensor(x) for x in (inputs, *variables)]
        if not pieces.learning():
            # Else TensorFlow would keep what a gradient needs.
            given = [tf.stop_gradient(x) for x in given]
        y, *changes = self._function[training](*given)
        places = self._changed[training]
        others = network.non_trainable_variables
        for place, value in zip(places, _means(changes), strict=True):
            others[place].assign(value)
        return y

    def _with_training(self, training):
        def run(x, *values):
            y, before, after = stateless(self._network, x, values, training)
            changed = [i for i, old in enumerate(before) if after[i] is not old]
            self._changed[training] = changed
            return y, *[after[i] for i in changed]

        return run


def fits(network):
    """Whether nothing in a network meets other replicas, so that XLA takes a pass."""
    if replicas.num_replicas() == 1:
        return True
    layers = internals.layers_of(network)
    return not any(getattr(layer, "meets_replicas", False) for layer in layers)


def _means(changes):
    """Floats as their mean over replicas; other numbers are equal on all."""
    floats = {i: x for i, x in enumerate(changes) if x.dtype.is_floating}
    if replicas.num_replicas() == 1 or not floats:
        return changes
    means = dict(zip(floats, replicas.mean_of_each(list(floats.values()))))
    return [means.get(i, x) for i, x in enumerate(changes)]

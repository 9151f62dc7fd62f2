"""A pass of a network as a function of its input and of its variables' values."""

import keras
import tensorflow as tf

from tfssl import internals, pieces, replicas


def stateless(run, variables, values):
    """Calls a function on given values of variables, and changes none.

    Args:
        run: function without arguments.
        variables: list of Keras variables, all that it reads.
        values: list of tensors, one for each.

    Returns:
        `(output, changes)`: what it returned, and a dict of the values that it would
        have assigned, by the variables' places in the list.
    """
    with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
        before = [scope.get_current_value(v) for v in variables]
        output = run()
        after = [scope.get_current_value(v) for v in variables]
    pairs = enumerate(zip(before, after))
    return output, {i: new for i, (old, new) in pairs if new is not old}


class Compiled:
    """A function of tensors and of variables, compiled by XLA as a piece of a step.

    What it changes (moving statistics) is changed behind it, by the mean over all
    replicas of what each has found.

    Args:
        run: function of tensors and structures of them, in which no replica is met.
        variables: list of Keras variables, all that it reads.
    """

    def __init__(self, run, variables):
        self._run = run
        self._variables = variables
        self._function = pieces.compiled(self._stateless)
        self._changed = None

    def __call__(self, *args):
        """What `run(*args)` returns."""
        output, changes = self.without_changes(*args)
        assign(changes)
        return output

    def without_changes(self, *args):
        """`(output, changes)`, the latter a list of (variable, value), for `assign`."""
        values = [tf.convert_to_tensor(v) for v in self._variables]
        given = tf.nest.map_structure(tf.convert_to_tensor, args)
        if not pieces.learning():
            # Else TensorFlow would keep what a gradient needs.
            given, values = tf.nest.map_structure(tf.stop_gradient, (given, values))
        output, changes = self._function(given, values)
        changed = [self._variables[place] for place in self._changed]
        return output, list(zip(changed, changes, strict=True))

    def _stateless(self, args, values):
        output, changes = stateless(lambda: self._run(*args), self._variables, values)
        self._changed = list(changes)
        return output, list(changes.values())


def compiled(network, training):
    """The passes of a Keras network, in which `meeting` finds nothing, as one piece."""
    variables = network.trainable_variables + network.non_trainable_variables
    return Compiled(lambda x: network(x, training=training), variables)


def meets(layer):
    """Whether a layer itself meets other replicas in training."""
    return replicas.num_replicas() > 1 and getattr(layer, "meets_replicas", False)


def meeting(network):
    """A tuple of the layers in a network, at any depth, that meet other replicas."""
    return tuple(filter(meets, internals.layers_of(network)))


def assign(changes):
    """Assigns to variables what this replica has found for them, a list of pairs.

    Floats become their mean over replicas, in one exchange; other numbers are equal on
    all.
    """
    values = {i: x for i, (_, x) in enumerate(changes)}
    floats = {i: x for i, x in values.items() if x.dtype.is_floating}
    if replicas.num_replicas() > 1 and floats:
        values |= zip(floats, replicas.mean_of_each(list(floats.values())))
    for i, (variable, _) in enumerate(changes):
        variable.assign(values[i])

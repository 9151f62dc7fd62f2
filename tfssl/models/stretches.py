"""A functional network in stretches, between which its norms meet other replicas.

Batch norm with global (or shuffled) statistics exchanges its moments with the other
replicas in the middle of a network, where XLA cannot compile across. What lies between
two exchanges it can: the second half of some norms, the layers behind them, and the
moments that the next norms ask for. Norms that do not wait for each other, as those of
a block's shortcut and of its first convolution, meet at the same time.
"""

import dataclasses

import keras

from tfssl import internals, replicas
from tfssl.models import passes


def can_be_cut(network, meeting):
    """Whether a network's layers that meet replicas are norms among its own layers.

    Args:
        network: functional Keras model.
        meeting: those layers, as of `passes.meeting`.
    """
    single = len(network.inputs) == len(network.outputs) == 1
    return single and all(
        hasattr(layer, "shared_moments") and layer in network.layers
        for layer in meeting
    )


class Stretches:
    """The training pass of a network, each stretch of it compiled by XLA.

    Args:
        network: functional Keras model, of which `can_be_cut` is true.
    """

    def __init__(self, network):
        graph = _Graph(network)
        self._ends = id(network.inputs[0]), id(network.outputs[0])
        self._stretches = [
            _Stretch(graph, number) for number in range(graph.meetings + 1)
        ]

    def __call__(self, inputs):
        """The output for `inputs`, as the network's own call in training gives it."""
        start, end = self._ends
        mine = replicas.replica_index()
        found, shared, changes = {start: inputs}, [], []
        for stretch in self._stretches:
            made, own, changed = stretch(found, shared, mine)
            found |= made
            changes += changed
            shared = replicas.sum_of_each(own) if own else []
        passes.assign(changes)
        return found[end]


@dataclasses.dataclass
class _Norm:
    """A norm that meets replicas, between the Keras tensors `before` and `behind`."""

    layer: keras.layers.Layer
    before: object
    behind: object


class _Graph:
    """What a network is made of, by the number of meetings before it.

    Attributes:
        meetings: int.
        norms: list of `_Norm`.
    """

    def __init__(self, network):
        self._start, end = network.inputs[0], network.outputs[0]
        self._order = _in_order(end)
        self._number, self._asked, self.norms = {}, {}, []
        for tensor in self._order:
            layer, sources = internals.made_of(tensor)
            number = max((self._number[id(x)] for x in sources), default=0)
            if passes.meets(layer):
                number += 1
                self.norms.append(_Norm(layer, sources[0], tensor))
            self._number[id(tensor)] = number
            for source in sources:
                self._asked.setdefault(id(source), set()).add(number)
        self.meetings = self._number[id(end)]
        self._asked[id(end)] = {self.meetings + 1}
        self._behind = {id(norm.behind) for norm in self.norms}

    def number(self, tensor):
        """How many meetings come before a tensor: its stretch."""
        return self._number[id(tensor)]

    def begins(self, number):
        """The norms whose outputs begin a stretch."""
        return [norm for norm in self.norms if self.number(norm.behind) == number]

    def taken(self, number):
        """Tensors that a stretch needs of those before it, the input in the first."""
        if number == 0:
            return [self._start]
        return [
            tensor
            for tensor in self._order
            if self.number(tensor) < number and number in self._asked[id(tensor)]
        ]

    def kept(self, number):
        """Tensors of a stretch that later ones need."""
        return [
            tensor
            for tensor in self._order
            if self.number(tensor) == number
            and max(self._asked[id(tensor)]) > number
            and tensor is not self._start
        ]

    def layers(self, number):
        """A model of a stretch's layers, its inputs and its outputs.

        None and two empty lists where there is no layer, as between two norms.
        """
        goals = [x for x in self.kept(number) if id(x) not in self._behind]
        if not goals:
            return None, [], []
        needed = {
            id(source)
            for tensor in self._order
            if self.number(tensor) == number and id(tensor) not in self._behind
            for source in internals.made_of(tensor)[1]
        }
        begun = [norm.behind for norm in self.begins(number)]
        starts = [x for x in (*self.taken(number), *begun) if id(x) in needed]
        return keras.Model(starts, goals), starts, goals


class _Stretch:
    """What a network computes between two meetings of its norms."""

    def __init__(self, graph, number):
        self._begins = graph.begins(number)
        self._ends = [x for x in graph.norms if graph.number(x.before) == number]
        self._taken, self._kept = graph.taken(number), graph.kept(number)
        self._layers, self._starts, self._goals = graph.layers(number)
        self._replicas = replicas.num_replicas()
        variables = [v for norm in self._begins for v in norm.layer.variables]
        if self._layers is not None:
            variables += self._layers.variables
        self._compiled = passes.Compiled(self._run, variables)

    def __call__(self, found, shared, mine):
        """Runs the stretch, and changes no variable.

        Args:
            found: dict of tensors that were made before, by the ids of Keras's.
            shared: list, moments of all replicas for the norms that begin it.
            mine: int32 scalar tensor, the number of this replica.

        Returns:
            `(made, own, changes)`: what is to be added to `found`; this replica's
            moments for the norms that end it, whose sums are those of all replicas;
            what is to be assigned.
        """
        taken = [found[id(tensor)] for tensor in self._taken]
        run = self._compiled.without_changes
        (kept, own), changes = run(taken, shared, mine)
        return dict(zip(map(id, self._kept), kept, strict=True)), own, changes

    def _run(self, taken, shared, mine):
        found = dict(zip(map(id, self._taken), taken, strict=True))
        for norm, of_replicas in zip(self._begins, shared, strict=True):
            moments = norm.layer.shared_moments(of_replicas, mine)
            found[id(norm.behind)] = norm.layer.normalized(
                found[id(norm.before)], moments
            )
        if self._layers is not None:
            given = [found[id(tensor)] for tensor in self._starts]
            made = self._layers(given, training=True)
            found |= zip(map(id, self._goals), keras.tree.flatten(made), strict=True)
        own = [norm.layer.own_moments(found[id(norm.before)]) for norm in self._ends]
        own = [replicas.in_slot(x, mine, self._replicas) for x in own]
        return [found[id(tensor)] for tensor in self._kept], own


def _in_order(end):
    """All Keras tensors that one is made of, each behind those it is made of itself."""
    found, waiting = {}, [end]
    while waiting:
        tensor = waiting[-1]
        first = [x for x in internals.made_of(tensor)[1] if id(x) not in found]
        waiting.extend(first)
        if not first:
            found[id(waiting.pop())] = tensor
    return list(found.values())

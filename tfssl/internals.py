"""What tfssl takes from private parts of Keras and TensorFlow, all of it.

Neither promises that these stay. Each stands here once, behind a name that says what
is meant, with the reason why nothing public would do; `tests/internals_test.py` says
which of them a new release has changed.
"""

import functools
import os
import weakref

import tensorflow as tf
from tensorflow.python.eager import cancellation
from tensorflow.python.framework import func_graph, ops
from tensorflow.python.ops import control_flow_v2_func_graphs as branches
from tensorflow.python.util import _pywrap_util_port

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


def layers_of(layer):
    """A layer and all that are inside of it, at any depth, each once.

    `Model.layers` is public and ends at the first level: it would miss the norms of a
    network inside a network.

    Args:
        layer: Keras layer or model.

    Returns:
        List of layers, `layer` first.
    """
    return layer._flatten_layers()


def made_of(tensor):
    """What a Keras tensor of a functional model was made of.

    A model tells its layers, `Model.operations`, and not what each of them was given.

    Args:
        tensor: Keras tensor.

    Returns:
        `(operation, sources)`: the layer or operation, and the list of Keras tensors
        that it was called on; of an input none.
    """
    operation, call, _ = tensor._keras_history
    return operation, list(operation._inbound_nodes[call].input_tensors)


def trained_variables(optimizer):
    """The variables that a built optimizer updates, in its order.

    `optimizer.variables` is public and holds its own state only.

    Args:
        optimizer: a built Keras optimizer, perhaps a `LossScaleOptimizer`.

    Returns:
        List of Keras variables.
    """
    return list(optimizer._trainable_variables)


def variable_index(optimizer, variable):
    """The place of a variable among those that an optimizer was built with.

    `update_step` gets a variable and needs its slots, which are lists in that order.
    Keras's own optimizers ask in the same way.

    Args:
        optimizer: a built Keras optimizer.
        variable: Keras variable, or TensorFlow's inside of one.

    Returns:
        int.
    """
    return optimizer._get_variable_index(variable)


def learning_rate(optimizer):
    """The learning rate of a Keras optimizer, as it was given.

    `learning_rate` is public and is that of the next step.

    Args:
        optimizer: a Keras optimizer.

    Returns:
        A variable, a schedule, or a function.
    """
    return optimizer._learning_rate


def pin_graph_seed():
    """Frees the operations of the graph being traced from the global seed.

    A seeded operation, as `Dataset.shuffle`, draws from its own seed and that of its
    graph, and a new graph takes over the process's (`tf.random.set_seed`), set or not.
    Call it inside a function that TensorFlow traces: there the graph is that of
    the function, not one that a user sees.
    """
    tf.compat.v1.get_default_graph().seed = 1


def function(run, *, autograph=False, **arguments):
    """A `tf.function` whose graphs are freed when it is.

    TensorFlow keeps the graph of a first trace for ever where it has a branch or a
    loop, which refer to it in ways that Python's collector cannot see, and of every
    trace what `tf.custom_gradient` registered (Keras's `silu` does). In a process that
    trains many networks, that is most of the memory they had.

    Args:
        run: function of tensors.
        autograph: bool, whether Python's `if` and `while` inside of it may ask tensors.
            Errors are those that were raised, where TensorFlow raises others of them,
            whose message is a stack.
        **arguments: of `tf.function`.

    Returns:
        What `tf.function` returns; with `autograph` a function.
    """
    graphs = []

    @functools.wraps(run)
    def traced(*args, **kwargs):
        if not tf.executing_eagerly():  # Asked to run eagerly, it has no graph.
            graphs.append(tf.compat.v1.get_default_graph())
        return run(*args, **kwargs)

    made = tf.function(traced, autograph=autograph, **arguments)
    weakref.finalize(made, _free, graphs).atexit = False
    return _with_plain_errors(made) if autograph else made


def _with_plain_errors(made):
    @functools.wraps(made.python_function)
    def called(*args, **kwargs):
        try:
            return made(*args, **kwargs)
        except Exception as error:
            raised = error.__context__
            rewritten = getattr(raised, "ag_error_metadata", None)
            if rewritten is None:
                raise
        stack = rewritten.translated_stack
        if stack and stack[0].filename.startswith(_OURS):
            # From here: the code that raised it lies in a file of AutoGraph's.
            raise type(raised)(*raised.args) from raised
        raise raised

    return called


def _free(graphs):
    for graph in graphs:
        for part in _with_branches(graph):
            for operation in part.get_operations():
                _forget_gradient(operation)
        func_graph.dismantle_func_graph(graph)


def _with_branches(graph):
    """A graph and those of its branches and loops, not of functions that it calls.

    It holds all of them, those of what is called too, which may be in use elsewhere.
    """
    yield graph
    for inner in graph._functions.values():
        if isinstance(inner.graph, _BRANCHES) and inner.graph.outer_graph is graph:
            yield from _with_branches(inner.graph)


_BRANCHES = (
    branches.CondBranchFuncGraph,
    branches.WhileCondFuncGraph,
    branches.WhileBodyFuncGraph,
)


def _forget_gradient(operation):
    try:
        name = operation.get_attr("_gradient_op_type")
    except ValueError:  # It has that of all of its type.
        return
    ops.gradient_registry._registry.pop(name.decode(), None)


class BuiltBeforehand:
    """Mix-in before `keras.Model`: `fit` calls `build_optimizer` and builds no more.

    Stock Keras draws a batch first, to build what is not built yet, and reduces it over
    replicas, which fails for `MultiWorkerMirroredStrategy`. There is no public way to
    say that a model is complete: `built = True` is not asked.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.build_optimizer()


class UpdatedTogether:
    """Mix-in before `keras.optimizers.Optimizer`: `update_all` makes all updates.

    Keras calls `update_step` for one variable after the other, in a function that has
    no public hook around it, the only place where gradients are summed over replicas
    and each replica updates by itself. There gradients are clipped, too: Keras clips
    each replica's part, which is another number than the whole has. Decoupled weight
    decay is left to `update_all` as well, see `decay_weights`.
    """

    def _clip_gradients(self, gradients):
        return gradients

    def _apply_weight_decay(self, variables):
        pass

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        gradients, variables = zip(*grads_and_vars)

        def update(first, others, gradients, rate):
            gradients = super(UpdatedTogether, self)._clip_gradients(gradients)
            self.update_all(gradients, (first, *others), tf.convert_to_tensor(rate))

        args = (variables[1:], gradients, learning_rate)
        distribution.extended.update(variables[0], update, args=args, group=False)


def decay_weights(optimizer, variables, learning_rate):
    """Decoupled weight decay as of `keras.optimizers.Optimizer`, to the bit.

    Keras reads the rate and the decay anew for each variable: where they are schedules,
    a step has as many cosines as the network has variables.

    Args:
        optimizer: a Keras optimizer.
        variables: TensorFlow's variables of this replica.
        learning_rate: float scalar tensor.
    """
    decay = optimizer.weight_decay
    if decay is None:
        return
    for variable in filter(optimizer._use_weight_decay, variables):
        rate, factor = (tf.cast(x, variable.dtype) for x in (learning_rate, decay))
        variable.assign_sub(variable * factor * rate)


def cancellation_manager():
    """What ends a running function from another thread: call its `start_cancel()`.

    The public API has no way to: a function that waits for a batch waits for ever.
    """
    return cancellation.CancellationManager()


def cancelled_by(manager):
    """Context in which functions end with `CancelledError` once the manager says so."""
    return cancellation.CancellationManagerContext(manager)


def onednn():
    """Whether TensorFlow computes with oneDNN in this process.

    Decided when it is loaded; no public function tells.
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def part_collectives():
    """Gives the next `MirroredStrategy` keys of its own.

    Collective operations of two strategies in one process would share them, and fail
    where their sizes differ: two trainings, one after the other, in a notebook.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 100_000

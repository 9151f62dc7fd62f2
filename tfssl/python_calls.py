"""Whether a graph leaves TensorFlow for Python, which another process does not have."""

_OPERATIONS = ("PyFunc", "EagerPyFunc", "PyFuncStateless")


def within(graph):
    """Whether a graph, or a function inside of it, calls a function of this process.

    Args:
        graph: `GraphDef`.

    Returns:
        bool; true where `tf.py_function`, `tf.numpy_function` or the generator of a
        data set is called.
    """
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return any(node.op in _OPERATIONS for node in nodes)

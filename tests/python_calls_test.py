"""Graphs that call Python."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import python_calls

_SPEC = tf.TensorSpec((2,), tf.float32)


def _within(function):
    graph = tf.function(function).get_concrete_function(_SPEC).graph
    return python_calls.within(graph.as_graph_def())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: tf.numpy_function(np.sin, [x], tf.float32),
        lambda x: tf.numpy_function(np.sin, [x], tf.float32, stateful=False),
        lambda x: tf.py_function(tf.sin, [x], tf.float32),
    ],
)
def test_calls_are_found_at_any_depth(call):
    assert _within(call)
    assert _within(lambda x: tf.cond(x[0] > 0, lambda: call(x), lambda: x))


def test_operations_of_tensorflow_call_nothing():
    assert not _within(lambda x: tf.map_fn(tf.sin, x, name="PyFunc"))

"""Views that are alike share what TensorFlow traces of them.

To trace is most of what the start of a pipeline costs, and a recipe of many crops has
the same view many times over.
"""

import functools
from collections import Counter

import tensorflow as tf


def traced_once(run, recipe):
    """`run`, traced once for all views of a recipe that are alike.

    Args:
        run: function of a view and of tensors, which it does not change.
        recipe: sequence of `View`.

    Returns:
        Function of a view and of tensors.
    """
    if tf.executing_eagerly():
        return run
    functions = {
        view: tf.function(functools.partial(run, view), autograph=False)
        for view, count in Counter(recipe).items()
        if count > 1
    }
    return lambda view, *tensors: (
        functions[view](*tensors) if view in functions else run(view, *tensors)
    )

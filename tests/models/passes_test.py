"""A pass of a network that XLA compiles by itself."""

import tensorflow as tf

from tests.fixtures import chains, compiled
from tfssl import pieces
from tfssl.models import passes


def _compiled_calls(function, *args):
    return compiled.calls(tf.function(function).get_concrete_function(*args))


def test_a_pass_is_one_compiled_call_where_it_is_wanted():
    network = chains.Chain(statistics="local")
    images = tf.zeros([4, 16, 16, 3])

    def wanted(images):
        with pieces.compiling():
            return network(images, training=True) + network(images, training=False)

    assert _compiled_calls(wanted, images) == 2
    assert _compiled_calls(lambda x: network(x, training=True), images) == 0


def test_what_meets_replicas_is_found(mirrored):
    with mirrored(2).scope():
        assert not passes.meeting(chains.Chain(statistics="local"))
        network = chains.Chain(statistics="global")
        assert [x.statistics for x in passes.meeting(network)] == ["global"] * 2
        network.trainable = False  # Frozen norms take their moving moments.
        assert not passes.meeting(network)
    assert not passes.meeting(chains.Chain(statistics="global"))


def test_a_pass_without_gradient_hands_out_nothing_for_one():
    network = chains.Chain(statistics="local")
    seen = []

    def step(images):
        with pieces.compiling(), tf.GradientTape(), pieces.without_gradient():
            network(images, training=True)
        calls = [
            op
            for op in tf.compat.v1.get_default_graph().get_operations()
            if "Call" in op.type
        ]
        seen.extend(len(op.outputs) for op in calls)

    tf.function(step).get_concrete_function(tf.zeros([4, 16, 16, 3]))
    changed = 1 + 4 + 2  # Output, moving moments, states of dropout.
    assert seen and max(seen) <= changed

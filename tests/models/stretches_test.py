"""Networks whose norms meet replicas, compiled between the meetings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import chains, compiled
from tfssl import models, pieces
from tfssl.models import norms, passes, stretches

_IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")


def _network(kind, statistics="global", **arguments):
    keras.utils.set_random_seed(1)
    if kind == "chain":
        return chains.Chain(statistics=statistics)
    return models.resnet(
        18,
        width=0.125,
        stem="cifar",
        norm_statistics=statistics,
        zero_init_residual=False,
        input_shape=(16, 16, 3),
        **arguments,
    )


def _trained(strategy, make, *, compiling):
    """A step by hand: output, gradients, moving moments, compiled calls per replica.

    Every replica takes its rows, and the gradients are summed.
    """
    with strategy.scope():
        network = make()
    weights = np.random.default_rng(1).normal(size=(8, network.output_shape[-1]))
    count = strategy.num_replicas_in_sync
    rows = 8 // count

    def on_replica():
        mine = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = tf.constant(_IMAGES)[mine * rows : (mine + 1) * rows]
        factor = tf.constant(weights, tf.float32)[mine * rows : (mine + 1) * rows]
        learned = [v.value for v in network.trainable_variables]
        with tf.GradientTape() as tape:
            y = network(images, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * factor)
        return y, tape.gradient(loss, learned)

    @tf.function(autograph=False)
    def step():
        def wanted():
            if not compiling:
                return on_replica()
            with pieces.compiling():  # Replicas have threads of their own.
                return on_replica()

        return strategy.run(wanted)

    y, found = step()
    calls = compiled.calls(step.get_concrete_function()) // count
    local = strategy.experimental_local_results
    output = [np.concatenate([np.array(part, np.float32) for part in local(y)])]
    gradients = [sum(np.array(part, np.float64) for part in local(g)) for g in found]
    copies = [
        [np.array(c) for c in local(v.value)] for v in network.non_trainable_variables
    ]
    for first, *others in copies:
        for other in others:
            np.testing.assert_array_equal(first, other)
    return output, gradients, [first for first, *_ in copies], calls


def _assert_alike(found, expected, tolerance):
    """Relative to the largest number of all: some gradients are of rounding alone."""
    for ours, theirs in zip(found[:3], expected[:3]):
        scale = max(np.abs(x).max() for x in theirs)
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", ["chain", "resnet"])
def test_two_replicas_in_stretches_equal_one_device(kind, mirrored):
    alone = _trained(
        tf.distribute.get_strategy(), lambda: _network(kind), compiling=False
    )
    found = _trained(mirrored(2), lambda: _network(kind), compiling=True)
    _assert_alike(found, alone, 1e-5)
    assert found[3] > 0 and alone[3] == 0


@pytest.mark.parametrize("statistics", ["groups", "shuffle"])
def test_groups_of_replicas_and_shuffled_rows(statistics, mirrored):
    """Four replicas: norms in two groups of them; rows dealt to groups of four."""

    def make():
        network = _network("chain")
        for layer in network.layers:
            if isinstance(layer, norms.BatchNorm) and statistics == "groups":
                layer.replica_groups = 2
            elif isinstance(layer, norms.BatchNorm):
                layer.statistics, layer.group_size = "shuffle", 4
        return network

    plain = _trained(mirrored(4), make, compiling=False)
    found = _trained(mirrored(4), make, compiling=True)
    _assert_alike(found, plain, 1e-5)
    assert found[3] > 0 and plain[3] == 0


def test_bfloat16_is_near_float32(mirrored):
    exact = _trained(mirrored(2), lambda: _network("chain"), compiling=False)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = _trained(mirrored(2), lambda: _network("chain"), compiling=True)
    finally:
        keras.config.set_dtype_policy("float32")
    _assert_alike(found, exact, 0.05)


def test_norms_that_do_not_wait_for_each_other_meet_at_once(mirrored):
    """Of ResNet-50: the stem, three of each block, none more of the shortcuts."""
    with mirrored(2).scope():
        network = models.resnet(50, width=0.125, norm_statistics="global")
        graph = stretches._Graph(network)
        assert len(graph.norms) == len(passes.meeting(network)) == 53
    assert graph.meetings == 1 + 3 * 16


def test_every_layer_stands_in_one_stretch(mirrored):
    with mirrored(2).scope():
        network = _network("resnet")
        parts = stretches.Stretches(network)._stretches
    inside = [
        layer.name
        for part in parts
        if part._layers is not None
        for layer in part._layers.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    begun = [norm.layer.name for part in parts for norm in part._begins]
    expected = [x.name for x in network.layers if x is not network.layers[0]]
    assert sorted([*inside, *begun]) == sorted(expected)
    assert sorted(begun) == sorted(n.layer.name for p in parts for n in p._ends)


def test_a_pass_for_evaluation_and_one_of_frozen_norms_are_whole(mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        network = _network("chain")

    def calls(training):
        def run():
            with pieces.compiling():
                network(tf.constant(_IMAGES), training=training)

        function = tf.function(lambda: strategy.run(run), autograph=False)
        return compiled.calls(function.get_concrete_function()) / 2

    assert calls(True) == 3
    assert calls(False) == 1
    network.trainable = False
    assert calls(True) == 1


def test_norms_inside_of_a_network_inside_are_left_to_tensorflow(mirrored):
    with mirrored(2).scope():
        inner = _network("chain")
        x = keras.Input((16, 16, 3))
        outer = keras.Model(x, inner(x))
        for network, expected in ((inner, True), (outer, False)):
            meeting = passes.meeting(network)
            assert stretches.can_be_cut(network, meeting) == expected

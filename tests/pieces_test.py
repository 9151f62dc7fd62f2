"""Replicas whose steps XLA compiles part by part train as those of TensorFlow alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import chains
from tests.methods import cases
from tfssl import methods, optimizers, pieces, replicas
from tfssl.models import passes


def _method(name, network):
    if name == "simclr":
        return methods.SimCLR(network, temperature=0.5, projection_dim=16)
    if name == "byol":
        shape = dict(projection_hidden=32, projection_dim=16)
        return methods.BYOL(network, momentum=0.9, total_steps=50, **shape)
    return methods.MoCo(network, version=2, momentum=0.9, queue_size=40)


def trained(name, strategy, jit_compile, *, policy="float32", optimizer="sgd", **chain):
    """Metrics and state after a few steps, and the method."""
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            keras.utils.set_random_seed(1)
            method = _method(name, chains.Chain(**chain))
            method.compile(
                optimizers.build(optimizer, learning_rate=1e-2, weight_decay=1e-4),
                jit_compile=jit_compile,
            )
            method.build_optimizer()
        logs = cases.train(method, cases.batches("simclr"), strategy=strategy)
    finally:
        keras.config.set_dtype_policy("float32")
    return logs, cases.state(method), method


def _agree(plain, compiled, tolerance=cases.TOLERANCE):
    for key, value in plain[0].items():
        assert compiled[0][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    cases.assert_close(plain[1], compiled[1], tolerance=tolerance)


@pytest.mark.parametrize(
    "name, network",
    [
        ("simclr", dict(statistics="local", optimizer="lars")),
        ("simclr", dict(statistics="split", optimizer="adamw")),
        ("byol", dict(statistics="local")),
        ("moco", dict(statistics="local", optimizer="larc")),
    ],
)
def test_two_replicas_compiled_part_by_part_train_as_without_xla(
    name, network, mirrored
):
    plain = trained(name, mirrored(2), False, **network)
    compiled = trained(name, mirrored(2), True, **network)
    _agree(plain, compiled)
    method = compiled[2]
    assert method.xla == "part by part" and plain[2].xla == "off"
    # What replicas find for themselves is the same on all.
    for variable in method.variables:
        first, second = replica_values(variable, method)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


def replica_values(variable, method):
    return method.distribute_strategy.experimental_local_results(variable.value)


def test_replicas_that_share_statistics_equal_one_device(mirrored):
    alone = trained("byol", tf.distribute.get_strategy(), False)
    _agree(alone, trained("byol", mirrored(2), True))


def test_activations_are_computed_again_inside_a_part(mirrored):
    network = dict(statistics="local")
    plain = trained("simclr", mirrored(2), False, **network)
    strategy = mirrored(2)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        encoder = chains.Chain(**network)
        encoder.remat = True
        method = _method("simclr", encoder)
        made = optimizers.build("sgd", learning_rate=1e-2, weight_decay=1e-4)
        method.compile(made, jit_compile=True)
    logs = cases.train(method, cases.batches("simclr"), strategy=strategy)
    _agree(plain, (logs, cases.state(method)))


def test_bfloat16(mirrored):
    network = dict(policy="mixed_bfloat16", statistics="local")
    plain = trained("simclr", mirrored(2), False, **network)
    compiled = trained("simclr", mirrored(2), True, **network)
    assert compiled[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)


def _compiled_calls(function, *args):
    """How many calls of functions that XLA must compile a traced function has."""
    graph = tf.function(function).get_concrete_function(*args).graph
    return sum(
        "Call" in op.type and op.get_attr("_XlaMustCompile")
        for op in graph.get_operations()
        if "_XlaMustCompile" in op.node_def.attr
    )


def test_a_pass_is_one_compiled_call_where_it_is_wanted():
    network = chains.Chain(statistics="local")
    images = tf.zeros([4, 16, 16, 3])

    def wanted(images):
        with pieces.compiling():
            return network(images, training=True) + network(images, training=False)

    assert _compiled_calls(wanted, images) == 2
    assert _compiled_calls(lambda x: network(x, training=True), images) == 0


def test_a_network_that_meets_replicas_is_left_as_it_is(mirrored):
    with mirrored(2).scope():
        assert passes.fits(chains.Chain(statistics="local"))
        assert not passes.fits(chains.Chain(statistics="global"))
    assert passes.fits(chains.Chain(statistics="global"))


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


def test_alone_a_replica_counts_for_itself(mirrored):
    strategy = mirrored(2)

    @tf.function
    def run():
        def on_replica():
            index = tf.cast(replicas.replica_index(), tf.float32)
            with replicas.alone():
                count = replicas.num_replicas()
                own = replicas.mean_over_replicas(index)
                there = replicas.replica_index()
            return tf.stack(
                [own, tf.cast(there, tf.float32), count]
            ), replicas.mean_of_each([tf.fill([2], index), tf.fill([1, 3], 2 * index)])

        return strategy.run(on_replica)

    alone, (first, second) = run()
    found = strategy.experimental_local_results(alone)
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, 1, 1]])
    for x, value in ((first, [0.5, 0.5]), (second, [[1, 1, 1]])):
        for local in strategy.experimental_local_results(x):
            np.testing.assert_array_equal(local, value)

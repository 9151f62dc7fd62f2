"""Replicas whose steps XLA compiles part by part train as those of TensorFlow alone."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import chains
from tests.methods import cases
from tfssl import methods, optimizers
from tfssl.training import strategy as strategies


def _method(name, network):
    if name == "simclr":
        return methods.SimCLR(network, temperature=0.5, projection_dim=16)
    if name == "byol":
        shape = dict(projection_hidden=32, projection_dim=16)
        return methods.BYOL(network, momentum=0.9, total_steps=50, **shape)
    return methods.MoCo(network, version=2, momentum=0.9, queue_size=40)


def trained(name, strategy, jit_compile, *, policy="float32", optimizer="sgd", **chain):
    """Metrics and state after a few steps, and the method."""
    # Biases in front of batch norm have gradients of nothing but rounding.
    arguments = {"epsilon": 1e-3} if optimizer == "adamw" else {}
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            keras.utils.set_random_seed(1)
            method = _method(name, chains.Chain(**chain))
            method.compile(
                optimizers.build(
                    optimizer, learning_rate=1e-2, weight_decay=1e-4, **arguments
                ),
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
        ("byol", dict(statistics="local")),
        pytest.param(
            "simclr",
            dict(statistics="split", optimizer="adamw"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "moco", dict(statistics="local", optimizer="larc"), marks=pytest.mark.slow
        ),
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


def test_two_workers_that_share_statistics_equal_one_device(tmp_path):
    command = [sys.executable, "-m", "tests.pieces_test", str(tmp_path)]
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    loss, state, _ = trained("byol", tf.distribute.get_strategy(), False)
    for worker in range(2):
        with np.load(tmp_path / f"{worker}.npz") as file:
            found = {name: file[name] for name in file.files}
        assert float(found.pop("loss")) == pytest.approx(loss["loss"], rel=1e-5)
        cases.assert_close(state, found)


def _train_as_worker(folder):
    strategy = strategies.make("multi_worker")
    logs, state, method = trained("byol", strategy, True)
    assert method.xla == "part by part"
    path = os.path.join(folder, f"{strategy.cluster_resolver.task_id}.npz")
    numbered = {f"{i:03d} {name}": x for i, (name, x) in enumerate(state.items())}
    np.savez(path, **numbered, **logs)


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
    _agree(plain, (logs, cases.state(method)), tolerance=1e-4)


@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)],
)
def test_mixed_precision(policy, mirrored):
    network = dict(policy=policy, statistics="local")
    plain = trained("simclr", mirrored(2), False, **network)
    compiled = trained("simclr", mirrored(2), True, **network)
    assert compiled[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)


if __name__ == "__main__":
    _train_as_worker(sys.argv[1])

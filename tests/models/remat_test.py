"""A network whose activations are computed again trains as one that keeps them."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import chains, small_resnets
from tests.methods import cases
from tfssl import methods, models, optimizers
from tfssl.models import heads, remat
from tfssl.training import strategy as strategies


def trained(wanted, *, change=None, strategy=None, policy="float32", **network):
    """Metrics and state of SimCLR after six steps, and the method."""
    keras.config.set_dtype_policy(policy)
    strategy = strategy or tf.distribute.get_strategy()
    compiled = {"jit_compile": network.pop("jit_compile", False)}
    compiled["run_eagerly"] = network.pop("run_eagerly", False)
    try:
        with strategy.scope():
            keras.utils.set_random_seed(1)
            encoder = chains.Chain(**network)
            encoder.remat = wanted
            if change:
                change(encoder)
            method = methods.SimCLR(encoder, temperature=0.5, projection_dim=16)
            method.compile(
                optimizers.build("sgd", learning_rate=1e-2, weight_decay=1e-4),
                **compiled,
            )
            method.build_optimizer()
        start = cases.state(method)
        data = cases.batches("simclr")  # Six steps: float16 overflows in the first.
        logs = cases.train(method, data, steps=6, strategy=strategy)
    finally:
        keras.config.set_dtype_policy("float32")
    return logs, start, cases.state(method), method


def assert_same(kept, again, tolerance=1e-6):
    for key, value in kept[0].items():
        assert again[0][key] == pytest.approx(value, rel=1e-6), key
    cases.assert_close(kept[2], again[2], tolerance)


def moved(run, part):
    """Whether any variable with this in its path is not as it was."""
    _, start, end, _ = run
    return any((start[path] != end[path]).any() for path in start if part in path)


@pytest.mark.parametrize(
    "settings",
    [
        dict(statistics="global", rate=0.3),
        dict(statistics="split"),
        dict(policy="mixed_bfloat16", rate=0.3),
        dict(policy="mixed_float16"),
        dict(run_eagerly=True),
    ],
    ids=str,
)
def test_loss_gradients_and_state_are_those_of_kept_activations(settings):
    kept, again = trained(False, **settings), trained(True, **settings)
    assert again[3].encoder.remat and not kept[3].encoder.remat
    assert_same(kept, again)
    # Momentum of SGD holds the gradients; statistics moved, and once a step each.
    assert moved(again, "conv2d") and moved(again, "moving_mean")
    assert moved(again, "seed") is ("rate" in settings)


@pytest.mark.parametrize("statistics", ["local", "global"])
def test_two_replicas_too(statistics, mirrored):
    again = trained(True, statistics=statistics, strategy=mirrored(2))
    if statistics == "global":
        assert_same(trained(False), again, cases.TOLERANCE)
    else:
        kept = trained(False, statistics=statistics, strategy=mirrored(2))
        assert_same(kept, again)


def test_two_workers_too(tmp_path):
    command = [sys.executable, "-m", "tests.models.remat_test", str(tmp_path)]
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    expected = trained(False)[2]
    for worker in range(2):
        with np.load(tmp_path / f"{worker}.npz") as found:
            cases.assert_close(expected, dict(found))


def train_as_worker(folder):
    strategy = strategies.make("multi_worker")
    state = trained(True, strategy=strategy)[2]
    values = {f"{i:03d} {path}": v for i, (path, v) in enumerate(state.items())}
    worker = strategy.cluster_resolver.task_id
    np.savez(os.path.join(folder, f"{worker}.npz"), **values)


def test_xla_agrees_and_computes_blocks_again():
    kept = trained(False, jit_compile=True)
    again = trained(True, jit_compile=True)
    assert_same(kept, again, tolerance=1e-5)
    # But for the shortcuts, whose output no gradient asks for.
    assert [convolutions(False, xla=True), convolutions(True, xla=True)] == [4, 6]


def convolutions(wanted, *, xla=False):
    """How often a gradient of the weights runs convolutions forwards."""
    encoder = chains.Chain()
    encoder.remat = wanted

    @tf.function(jit_compile=xla)
    def gradient(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(images, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in encoder.trainable_variables])

    images = tf.zeros((4, 16, 16, 3))
    if not xla:
        graph = gradient.get_concrete_function(images).graph
        return sum(op.type == "Conv2D" for op in graph.get_operations())
    text = gradient.experimental_get_compiler_ir(images)(stage="optimized_hlo")
    lines = [line for line in text.splitlines() if " = " in line]
    # A gradient is a convolution as well there: the forward ones say so.
    return sum("convolution(" in line and 'Conv2D"' in line for line in lines)


def test_the_graph_has_every_block_twice():
    assert [convolutions(False), convolutions(True)] == [4, 8]


def test_frozen_layers_stay_frozen():
    def freeze(encoder):
        for layer in encoder.layers[:4]:
            layer.trainable = False

    kept = trained(False, change=freeze, policy="mixed_bfloat16")
    again = trained(True, change=freeze, policy="mixed_bfloat16")
    assert_same(kept, again)
    frozen = again[3].encoder.layers[2]
    assert not frozen.trainable and frozen.variables
    for variable in frozen.variables:
        np.testing.assert_array_equal(again[1][variable.path], variable)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("resnet18", dict(width=1 / 16, stem="cifar", sobel=True)),
        ("resnet50", dict(width=1 / 16, selective_kernels=True)),
        ("alexnet", dict(width=1 / 32, stem="cifar", input_shape=(32, 32, 3))),
    ],
)
def test_our_encoders_know_their_blocks(name, arguments):
    arguments = {"input_shape": (None, None, 3), **arguments}
    images = tf.constant(small_resnets.images((4, 32, 32, 3)))
    found = []
    for wanted in (False, True):
        keras.utils.set_random_seed(0)
        encoder = models.encoder(name, **arguments, remat=wanted)
        learned = encoder.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(images, training=True) ** 2)
        gradients = tape.gradient(loss, [v.value for v in learned])
        found.append([loss, *gradients, *encoder.variables])
    for kept, again in zip(*found, strict=True):
        scale = max(np.abs(kept).max(), 1e-3)
        np.testing.assert_allclose(again / scale, kept / scale, atol=1e-5)
    blocks = {"resnet18": 1 + 8, "resnet50": 1 + 16, "alexnet": 5}
    assert len(encoder.block_ends) == blocks[name]


_PEAK = """
import pathlib, sys
import keras
import tensorflow as tf
from tfssl import models

def resident(which):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[which].split()[0]) / 1024

encoder = models.encoder(
    "resnet18", width=0.25, stem="cifar", input_shape=(64, 64, 3),
    remat=sys.argv[1] == "on",
)
@tf.function
def step(images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(images, training=True))
    gradients = tape.gradient(loss, [v.value for v in encoder.trainable_variables])
    return sum(tf.reduce_sum(g) for g in gradients)

images = tf.random.stateless_uniform((64, 64, 64, 3), (0, 0))
run = step.get_concrete_function(images)
before = resident("VmRSS")
run(images)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux only")
def test_peak_memory_is_less():
    peaks = {}
    for wanted in ("off", "on"):
        result = subprocess.run(
            [sys.executable, "-c", _PEAK, wanted],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[wanted] = float(result.stdout)
    assert peaks["on"] < 0.75 * peaks["off"], peaks


def test_files_and_configs_know_nothing_of_it(tmp_path):
    plain = models.encoder("resnet18", width=1 / 16, input_shape=(16, 16, 3))
    again = models.encoder(
        "resnet18", width=1 / 16, input_shape=(16, 16, 3), remat=True
    )
    again.set_weights(plain.get_weights())
    names = {"name": None}
    assert again.get_config() | names == plain.get_config() | names
    assert [v.path for v in again.variables] == [v.path for v in plain.variables]
    assert [x.name for x in again.layers] == [x.name for x in plain.layers]
    again.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    assert loaded.remat is False
    images = small_resnets.images((2, 16, 16, 3))
    for network in (again, loaded):  # Without training there is nothing to keep.
        np.testing.assert_array_equal(network(images), plain(images))
    again.remat = False
    assert not again.remat


def test_it_is_found_inside_of_an_encoder_and_refused_elsewhere():
    inner = chains.Chain()
    headed = models.Headed(inner, heads.mlp(16, (8,)))
    remat.switch_on(headed)
    assert inner.remat
    with pytest.raises(ValueError, match="encoder 'other', whose blocks .* models.ENC"):
        remat.switch_on(keras.Sequential([keras.Input((8,))], name="other"))


if __name__ == "__main__":
    train_as_worker(sys.argv[1])

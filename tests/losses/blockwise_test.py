"""The loss in blocks against the plain one; its values are in contrastive_test.py."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.losses.contrastive_test import random_rows, value_and_gradients
from tfssl import losses


@pytest.mark.parametrize("block_size", [1, 7, 16, 1024])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_blockwise_equals_plain(block_size, temperature):
    tensors = [random_rows(8, 6, seed) for seed in range(2)]
    # Global rows that are NOT the local ones: each path has its own gradient.
    tensors += [random_rows(24, 6, seed) for seed in range(2, 4)]
    weights = tf.constant(np.linspace(0.1, 1, 8, dtype=np.float32))
    negatives = random_rows(9, 6, seed=4)
    for inputs, kwargs in (
        (tensors[:2], {}),
        (tensors, {"offset": 8}),
        (tensors, {"offset": 8, "negatives": negatives}),
    ):
        kwargs = {"temperature": temperature, **kwargs}
        plain = value_and_gradients(losses.nt_xent, inputs, weights, **kwargs)
        block = value_and_gradients(
            losses.nt_xent_blockwise, inputs, weights, block_size=block_size, **kwargs
        )
        for ours, theirs in zip(block, plain):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


def _graphs(graph):
    """A graph and those of all functions (loop bodies, gradients) in it."""
    yield graph
    for name in list(graph._functions):
        inner = graph._functions[name]
        if hasattr(inner, "graph"):
            yield inner.graph


def _largest_tensor(loss, batch, dim):
    """Elements of the largest tensor in the traced loss and gradient."""

    @tf.function
    def step(z_a, z_b):
        return value_and_gradients(loss, [z_a, z_b], tf.fill([batch], 1.0))

    spec = tf.TensorSpec((batch, dim))
    graph = step.get_concrete_function(spec, spec).graph
    return max(
        tensor.shape.num_elements() or 0
        for g in _graphs(graph)
        for operation in g.get_operations()
        for tensor in operation.outputs
    )


def test_blockwise_memory_is_linear_in_the_batch():
    # 8,192 anchors against 8,192 candidates of dimension 128. The largest tensor
    # is one block of similarities, or the candidates themselves.
    largest = _largest_tensor(losses.nt_xent_blockwise, 4096, 128)
    assert largest == 8192 * 1024
    half = _largest_tensor(losses.nt_xent_blockwise, 2048, 128)
    assert largest == 2 * half
    # The plain form holds (4096, 8192) for each view: this probe would see it.
    assert _largest_tensor(losses.nt_xent, 4096, 128) == 4096 * 8192


_PEAK_MEMORY = """
import tensorflow as tf
from tfssl import losses

def peak():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) // 1024

z_a, z_b = tf.random.normal((2, 4096, 128))

def step(loss):
    with tf.GradientTape() as tape:
        tape.watch([z_a, z_b])
        value = tf.reduce_mean(loss(z_a, z_b))
    return tape.gradient(value, [z_a, z_b])

for loss in (losses.nt_xent_blockwise, losses.nt_xent):
    run = tf.function(step).get_concrete_function(loss)
    before = peak()
    run()
    print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux only")
def test_blockwise_peak_memory():
    # A block is 32 MiB and exists a few times over; the plain form holds two
    # pairs of 128 MiB logits. Blocks computed side by side would show here.
    result = subprocess.run(
        [sys.executable, "-c", _PEAK_MEMORY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    blockwise, plain = map(int, result.stdout.split())
    assert blockwise < 350
    assert plain > 1.5 * blockwise


def test_bad_block_size():
    with pytest.raises(
        ValueError, match="block_size=0 received, expected a whole number, 1"
    ):
        losses.nt_xent_blockwise(np.ones((2, 4)), np.ones((2, 4)), block_size=0)

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tfssl.methods import gradient_watch

RATE = 0.5
STEPS = 3


def watched(strategy=None, *, policy="float32", steps_per_epoch=9, **compile_args):
    """A method after three steps of plain SGD, and the largest step of a weight."""
    keras.config.set_dtype_policy(policy)
    try:
        with (strategy or tf.distribute.get_strategy()).scope():
            optimizer = keras.optimizers.SGD(RATE)
            method = cases.make("simclr", optimizer=optimizer, **compile_args)
            method.gradient_watch = gradient_watch.GradientWatch(steps_per_epoch)
        moved = []
        for step in range(STEPS):
            before = [np.array(v) for v in method.learned_variables]
            batch = cases.batches("simclr").skip(step * cases.BATCH)
            cases.train(method, batch, steps=1, strategy=strategy)
            after = [np.array(v) for v in method.learned_variables]
            moved.append(max(np.abs(a - b).max() for a, b in zip(after, before)))
    finally:
        keras.config.set_dtype_policy("float32")
    return float(method.gradient_watch.largest.numpy()), np.array(moved) / RATE


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_the_largest_of_the_epochs_steps(jit_compile):
    largest, by_step = watched(jit_compile=jit_compile)
    assert largest == pytest.approx(by_step.max(), rel=1e-3)
    assert len(set(by_step)) == STEPS


def test_an_epoch_begins_anew():
    largest, by_step = watched(steps_per_epoch=STEPS - 1)
    assert largest == pytest.approx(by_step[-1], rel=1e-3)


def test_it_is_the_same_on_two_replicas(mirrored):
    alone, _ = watched()
    strategy = mirrored(2)
    both, _ = watched(strategy)
    assert both == pytest.approx(alone, rel=1e-5)


def test_the_scale_of_a_loss_is_taken_out():
    """A step that overflows moves nothing, and is not seen."""
    largest, by_step = watched(policy="mixed_float16")
    assert largest == pytest.approx(by_step.max(), rel=1e-3) and largest > 0


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("beyond", [np.inf, -np.inf, np.nan])
def test_an_overflow_is_left_out(beyond, jit_compile):
    watch = gradient_watch.GradientWatch(10)
    see = tf.function(watch.see, jit_compile=jit_compile)
    for step, values in enumerate(([1.0, -3.0], [beyond, 4.0], [2.0, 0.0])):
        see([tf.constant(values), tf.zeros([2, 2])], tf.constant(step), 2.0)
    assert float(watch.largest.numpy()) == 1.5


def test_a_variable_that_the_loss_does_not_depend_on_has_none():
    watch = gradient_watch.GradientWatch(10)
    watch.see([tf.constant([1.0, -3.0]), None], tf.constant(0), tf.constant(1.0))
    assert float(watch.largest.numpy()) == 3

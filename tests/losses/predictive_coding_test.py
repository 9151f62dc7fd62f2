import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def slow(predictions, targets, positive):
    """The paper's formula with loops, float64."""
    found = []
    for p, place in zip(predictions.astype(np.float64), positive):
        products = [math.exp(p @ t) for t in targets.astype(np.float64)]
        found.append(-math.log(products[place] / sum(products)))
    return found


def given(num=7, candidates=19, dim=5):
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=(num, dim)).astype(np.float32)
    targets = rng.normal(size=(candidates, dim)).astype(np.float32)
    return predictions, targets, rng.integers(0, candidates, num).astype(np.int32)


@pytest.mark.parametrize("block_size", [None, 4, 50])
@pytest.mark.parametrize("jit", [False, True])
def test_value_and_gradient_are_the_papers(block_size, jit):
    predictions, targets, positive = given()

    @tf.function(jit_compile=jit)
    def run(predictions, targets):
        with tf.GradientTape() as tape:
            tape.watch([predictions, targets])
            found = losses.predictive_coding(
                predictions, targets, positive, block_size=block_size
            )
        return found, tape.gradient(found, [predictions, targets])

    found, gradients = run(tf.constant(predictions), tf.constant(targets))
    np.testing.assert_allclose(found, slow(*given()), rtol=1e-5)
    for part, gradient in enumerate(gradients):
        for place in [(0, 0), (3, 2), (6, 4)]:
            moved = [a.astype(np.float64) for a in given()[:2]]
            change = []
            for step in (1e-6, -2e-6):
                moved[part][place] += step
                change.append(sum(slow(*moved, positive)))
            slope = (change[0] - change[1]) / 2e-6
            np.testing.assert_allclose(gradient[place], slope, atol=1e-4)


@pytest.mark.parametrize("block_size", [None, 4])
def test_what_cannot_tell_targets_apart_has_the_chance_loss(block_size):
    _, targets, positive = given()
    found = losses.predictive_coding(
        tf.zeros([7, 5], tf.bfloat16), targets, positive, block_size=block_size
    )
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, math.log(19), rtol=1e-6)


def test_shapes_and_blocks_that_cannot_work_are_refused():
    predictions, targets, positive = given()
    with pytest.raises(ValueError, match=r"got \(7, 5\) and \(19, 4\)"):
        losses.predictive_coding(predictions, targets[:, :4], positive)
    with pytest.raises(ValueError, match="block_size=0 received"):
        losses.predictive_coding(predictions, targets, positive, block_size=0)

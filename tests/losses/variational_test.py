import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def slow_elbo(outputs, values, logits, weight):
    """Pixel by pixel and cell by cell, in plain numbers."""
    found = []
    for image in range(len(values)):
        total = 0.0
        for place in np.ndindex(values.shape[1:]):
            row, column, channel = place
            x = float(values[image][place])
            mean = float(outputs[image, row, column, channel])
            scale = math.exp(outputs[image, row, column, channel + values.shape[-1]])
            distance = abs(math.log(x / (1 - x)) - mean)
            total += math.log(math.exp(-distance / scale) / (2 * scale * x * (1 - x)))
        for cell in logits[image].reshape(-1, logits.shape[-1]):
            powers = [math.exp(value) for value in cell]
            for power in powers:
                share = power / sum(powers)
                total -= weight * share * math.log(share * len(powers))
        found.append(total)
    return found


@pytest.mark.parametrize("weight", [0.0, 1.0, 6.6])
def test_equals_a_slow_form(weight):
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 0.9, size=(3, 4, 4, 2)).astype("float32")
    outputs = rng.normal(size=(3, 4, 4, 4)).astype("float32")
    logits = rng.normal(size=(3, 2, 2, 5)).astype("float32")
    likelihood = losses.logit_laplace(outputs, values)
    found = losses.dvae_elbo(likelihood, logits, kl_weight=weight)
    np.testing.assert_allclose(
        found, slow_elbo(outputs, values, logits, weight), rtol=1e-5
    )


def test_logit_laplace_is_a_density():
    x = np.linspace(0, 1, 20_002)[1:-1]
    outputs = np.broadcast_to([0.4, -0.7], (1, len(x), 1, 2))
    logs = losses.logit_laplace(outputs, x.reshape(1, -1, 1, 1))
    assert np.exp(logs).sum() / len(x) == pytest.approx(1, abs=1e-3)


def test_a_scale_has_a_least_value():
    values = np.full((1, 1, 1, 1), 0.5)
    found = [
        float(losses.logit_laplace(np.array([[[[0.0, s]]]]), values)[0, 0, 0, 0])
        for s in (-5.0, -50.0)
    ]
    assert found[0] == found[1] == pytest.approx(5 + math.log(2))


def test_kl_is_0_of_chance_and_most_of_a_choice():
    flat, sharp = np.zeros(8), np.array([100.0] + [0.0] * 7)
    found = losses.variational.kl_to_uniform(np.stack([flat, sharp]))
    np.testing.assert_allclose(found, [0, math.log(8)], atol=1e-6)


def test_squared_error_of_pixels():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 2, 3, 3, 1))
    found = losses.variational.squared_error(a, b)
    np.testing.assert_allclose(found, -((a - b) ** 2), rtol=1e-5)


def test_bad_input():
    values = tf.zeros((2, 4, 4, 3)) + 0.5
    with pytest.raises(ValueError, match=r"outputs of shape \(2, 4, 4, 6\) expected"):
        losses.logit_laplace(values, values)
    with pytest.raises(ValueError, match="log_likelihood .* expected, got"):
        losses.dvae_elbo(values, values[0])
    with pytest.raises(ValueError, match="kl_weight=-1 received"):
        losses.dvae_elbo(values, values, kl_weight=-1)

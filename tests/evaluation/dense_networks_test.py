import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import dense_networks

DIM, CLASSES, BATCH = 5, 3, 7


def batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    return x, rng.integers(0, CLASSES, BATCH)


def made(l2s=(0.0, 0.3), units=(4,), seed=0):
    networks = dense_networks.Networks(l2s, DIM, units, CLASSES, rate=0.01, seed=seed)
    rng = np.random.default_rng(1)
    for variable in networks.variables:
        variable.assign(rng.normal(size=variable.shape))
    return networks


def slow_loss(weights, l2, x, labels):
    """Of one network, in float64, row by row: weights are kernel, bias, kernel, …"""
    total = 0.0
    for row, label in zip(x.astype(float), labels):
        for i in range(0, len(weights), 2):
            row = np.maximum(row, 0) if i else row
            row = row @ weights[i] + weights[i + 1][0]
        total -= row[label] - np.log(np.exp(row).sum())
    penalty = sum((kernel**2).sum() for kernel in weights[::2])
    return total / len(x) + l2 / 2 * penalty


@pytest.mark.parametrize("units", [(), (4,), (4, 6)])
def test_loss_and_update_are_those_of_each_network_alone(units):
    networks = made(units=units)
    x, labels = batch()
    before = [v.numpy().astype(float) for v in networks.variables]
    found = networks.loss(tf.constant(x), tf.constant(labels))
    # Adam's second step with the same gradient, at half of the rate.
    networks.update(tf.constant(x), tf.constant(labels), 1.0, 0.0)
    for variable, value in zip(networks.variables, before):
        np.testing.assert_array_equal(variable, value.astype(np.float32))
    networks.update(tf.constant(x), tf.constant(labels), 2.0, 0.5)
    for head, l2 in enumerate((0.0, 0.3)):
        weights = [value[head] for value in before]
        loss = slow_loss(weights, l2, x, labels)
        np.testing.assert_allclose(found[head], loss, rtol=1e-5)
        for i, weight in enumerate(weights):
            inputs = weights[i - i % 2].shape[0]
            for place in np.ndindex(weight.shape):
                near = []
                for sign in (1, -1):
                    moved = [w.copy() for w in weights]
                    moved[i][place] += sign * 1e-6
                    near.append(slow_loss(moved, l2, x, labels))
                gradient = (near[0] - near[1]) / 2e-6
                if abs(gradient) < 1e-4:  # A hidden unit that is off.
                    continue
                # Two equal gradients: the corrected moments are g and g squared.
                step = 0.5 * 0.01 / np.sqrt(inputs) * np.sign(gradient)
                change = networks.variables[i].numpy()[head][place] - weight[place]
                np.testing.assert_allclose(change, -step, rtol=2e-3, atol=1e-6)


def test_all_start_alike_and_by_the_seed():
    def start(seed):
        return [
            v.numpy()
            for v in dense_networks.Networks(
                (0.1, 0.2), 400, (300,), 3, rate=1.0, seed=seed
            ).variables
        ]

    kernel, bias, last, _ = start(0)
    np.testing.assert_array_equal(kernel[0], kernel[1])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 400), rtol=0.02)
    assert not bias.any() and not last.any()
    np.testing.assert_array_equal(kernel, start(0)[0])
    assert np.abs(kernel - start(1)[0]).max() > 0.01


def test_a_network_does_not_change_its_neighbours():
    alone, beside = made(l2s=(0.3,)), made(l2s=(0.3, 0.3))
    for one, two in zip(alone.variables, beside.variables):
        two[0].assign(one[0])
    for step in range(1, 4):
        x, labels = batch(step)
        for networks in (alone, beside):
            networks.update(tf.constant(x), tf.constant(labels), float(step), 1.0)
    for one, two in zip(alone.variables, beside.variables):
        np.testing.assert_allclose(one[0], two[0], atol=1e-6)

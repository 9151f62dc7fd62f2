"""Batch norm whose statistics are those of groups of rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.batch_norms import built, gradients, images, reference
from tfssl.models import norms


def _members(statistics, size, count):
    """Group number of each of `count` rows, written from the docstring."""
    groups = max(count // size, 1)
    if statistics == "split":
        return [row * groups // count for row in range(count)]
    return [row % groups for row in range(count)]


def _group_reference(x, members, gamma, beta):
    """Each group normalized by itself; the mean of the groups' moments."""
    y, moments = np.zeros(x.shape), []
    for group in set(members):
        rows = [i for i, g in enumerate(members) if g == group]
        y[rows], *of_group = reference(x[rows], gamma, beta)
        moments.append(of_group)
    return y, *np.mean(moments, axis=0)


@pytest.mark.parametrize("statistics", ["split", "shuffle"])
@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 2, 5), (7, 3, 2, 5), (3, 5)])
def test_groups_are_normalized_by_themselves(statistics, shape):
    x = images(shape)
    layer = built(shape, statistics=statistics, group_size=4)
    gamma, beta, moving_mean, moving_variance = layer.get_weights()
    members = _members(statistics, 4, len(x))
    expected, mean, variance = _group_reference(x, members, gamma, beta)
    weights = tf.constant(images(shape, seed=2))
    y, dx, dgamma, dbeta = gradients(layer, x, weights)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(
        layer.moving_mean, 0.9 * moving_mean + 0.1 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.9 * moving_variance + 0.1 * variance, rtol=1e-5
    )
    # The gradient of a layer with local statistics, group by group.
    local = built(shape)
    slow_dx, slow_gamma, slow_beta = np.zeros(shape), 0.0, 0.0
    for group in set(members):
        rows = [i for i, g in enumerate(members) if g == group]
        _, part, to_gamma, to_beta = gradients(local, x[rows], weights.numpy()[rows])
        slow_dx[rows] = part
        slow_gamma, slow_beta = slow_gamma + to_gamma, slow_beta + to_beta
    np.testing.assert_allclose(dx, slow_dx, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(dgamma, slow_gamma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dbeta, slow_beta, rtol=1e-4, atol=1e-4)


def test_split_and_shuffle_groups_meet_as_rarely_as_chance():
    split, shuffled = (_members(s, 32, 256) for s in ("split", "shuffle"))
    for row in range(256):
        met = [i for i in range(256) if split[i] == split[row]]
        again = [i for i in met if shuffled[i] == shuffled[row]]
        assert len(met) == 32
        assert len(again) == 32 // 8  # Mean of a random permutation: 32 * 32 / 256.


@pytest.mark.parametrize("statistics", ["split", "shuffle"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_groups_do_not_depend_on_the_replicas(statistics, replicas, mirrored):
    x = images((16, 3, 2, 5))
    weights = images((16, 3, 2, 5), seed=2)
    alone = built(x.shape, statistics=statistics, group_size=4)
    expected = gradients(alone, x, tf.constant(weights))
    strategy = mirrored(replicas)
    with strategy.scope():
        layer = built(x.shape, statistics=statistics, group_size=4)
    parts = strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant(
            np.stack([x, weights], axis=1)[
                np.split(np.arange(16), replicas)[c.replica_id_in_sync_group]
            ]
        )
    )

    @tf.function
    def step(values):
        return strategy.run(
            lambda v: gradients(layer, v[:, 0], v[:, 1]), args=(values,)
        )

    results = [strategy.experimental_local_results(r) for r in step(parts)]
    for i in (0, 1):  # Output and gradient of the rows.
        joined = np.concatenate(results[i])
        np.testing.assert_allclose(joined, expected[i], rtol=1e-4, atol=1e-4)
    for i in (2, 3):  # gamma and beta: each replica holds its part of the sum.
        np.testing.assert_allclose(sum(results[i]), expected[i], rtol=1e-4, atol=1e-4)
    for a, b in zip(alone.get_weights(), layer.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_without_a_group_size_split_is_local():
    x, weights = images(), tf.constant(images(seed=2))
    split = gradients(built(statistics="split"), x, weights)
    local = gradients(built(), x, weights)
    for a, b in zip(split, local):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_groups_keep_the_compute_dtype(policy):
    layer = norms.BatchNorm(statistics="shuffle", group_size=4, dtype=policy)
    y = layer(tf.cast(images(), layer.compute_dtype), training=True)
    assert y.dtype == layer.compute_dtype
    expected, *_ = _group_reference(images(), _members("shuffle", 4, 8), 1.0, 0.0)
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.03)


def test_shuffle_statistics_changes_what_can_leak():
    inputs = keras.Input((4, 4, 3))
    x = norms.BatchNorm(statistics="split", group_size=2)(inputs)
    x = norms.BatchNorm(statistics="global")(x)
    inner = keras.Sequential([keras.Input((4, 4, 3)), norms.BatchNorm()])
    model = keras.Model(inputs, inner(x))
    changed = norms.shuffle_statistics(model)
    assert [layer.statistics for layer in changed] == ["shuffle"] * 2
    assert [layer.group_size for layer in changed] == [2, None]
    assert model.layers[2].statistics == "global"


def test_group_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="group_size must be at least 1.*got 0"):
        norms.BatchNorm(statistics="split", group_size=0)

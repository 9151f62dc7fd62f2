import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import unit
from tfssl import losses

_NUM, _DIM, _TAU = 23, 4, 0.2


def given(seed=0, batch=6):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, _DIM)).astype(np.float32)
    bank = unit(rng.normal(size=(_NUM, _DIM))).astype(np.float32)
    index = rng.permutation(_NUM)[:batch]
    clusters = rng.integers(0, 4, size=(3, _NUM))
    return query, bank, index, clusters


def slow(query, bank, index, clusters, background):
    """The definition, set by set."""
    found = []
    for q, i in zip(unit(query), index):
        similar = bank.astype(np.float64) @ q
        near = set(np.argsort(-similar)[:background].tolist()) | {int(i)}
        close = {int(i)}
        for of_one in clusters:
            if of_one[i] >= 0:
                close |= set(np.flatnonzero(of_one == of_one[i]).tolist())
        p = np.exp(similar / _TAU)
        both = sum(p[j] for j in near & close)
        found.append(-np.log(both / sum(p[j] for j in near)))
    return found


@pytest.mark.parametrize("block_size", [4, 7, 22, 23, 1000])
@pytest.mark.parametrize("background", [1, 5, 23, 100])
def test_equals_the_sets(background, block_size):
    query, bank, index, clusters = given()
    value, hits = losses.local_aggregation(
        query,
        bank,
        index,
        clusters,
        background=background,
        temperature=_TAU,
        block_size=block_size,
    )
    expected = slow(query, bank, index, clusters, background)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    nearest = (unit(query) @ bank.T).argmax(1)
    np.testing.assert_array_equal(hits, nearest == index)


def test_rows_without_a_cluster_share_none():
    query, bank, index, clusters = given()
    clusters[:, 5:] = -1
    value, _ = losses.local_aggregation(
        query, bank, index, clusters, background=9, temperature=_TAU
    )
    expected = slow(query, bank, index, clusters, 9)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_one_cluster_of_all_costs_nothing():
    query, bank, index, clusters = given()
    value, _ = losses.local_aggregation(
        query, bank, index, np.zeros_like(clusters), background=9
    )
    np.testing.assert_allclose(value, 0, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_the_gradient_is_that_of_all_similarities_at_once(jit):
    query, bank, index, clusters = given()
    query = tf.constant(query)

    @tf.function(jit_compile=jit)
    def gradient(block_size):
        with tf.GradientTape() as tape:
            tape.watch(query)
            value, _ = losses.local_aggregation(
                query, bank, index, clusters, background=9, block_size=block_size
            )
        return tape.gradient(value, query)

    whole, blocks = gradient(100), gradient(5)
    assert np.abs(whole).max() > 1e-3
    np.testing.assert_allclose(whole, blocks, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(background=0), "background=0 received"),
        (dict(temperature=0), "temperature=0 received"),
        (dict(block_size=0), "block_size=0 received"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        losses.local_aggregation(*given(), **{"background": 3} | arguments)

import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def rows(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow(query, positive, noise, temperature, size, z):
    """The lecture's formula, one candidate after the other, in float64."""
    found = []
    for i, q in enumerate(query):
        own = noise[i] if noise.ndim == 3 else noise

        def h(candidate, q=q, own=own):
            a, b = q.astype(np.float64), candidate.astype(np.float64)
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            p = math.exp(cosine / temperature) / z
            return p / (p + len(own) / size)

        loss = -math.log(h(positive[i]))
        for candidate in own:
            loss -= math.log(1 - h(candidate))
        found.append(loss)
    return found


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("size, z", [(40, 1.0), (40, 90.0), (1_280_000, 3e6)])
@pytest.mark.parametrize("noise", [(6, 4), (5, 3, 4)])
def test_matches_a_double_loop(noise, size, z, temperature):
    query, positive = rows(5, 4, seed=0), rows(5, 4, seed=1)
    noise = rows(*noise, seed=2)
    value = losses.noise_contrastive(
        query,
        positive,
        noise,
        temperature=temperature,
        dataset_size=size,
        normalizer=z,
    )
    assert value.shape == (5,) and value.dtype == tf.float32
    expected = slow(query, positive, noise, temperature, size, z)
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_without_a_normalizer_it_is_the_lecture_s_form():
    query, positive, noise = rows(3, 4, seed=0), rows(3, 4, seed=1), rows(2, 4, seed=2)
    value = losses.noise_contrastive(query, positive, noise, dataset_size=9)
    expected = slow(query, positive, noise, 0.07, 9, 1.0)
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_independent_directions_give_the_loss_known_of_imagenet():
    # Z / N is the mean of exp(s / 0.07) over random directions of 128 numbers.
    query, positive = rows(64, 128, seed=0), rows(64, 128, seed=1)
    noise, size = rows(4096, 128, seed=2), 1_281_167
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, noise)]
    z = size * np.exp(unit[0] @ unit[1].T / 0.07).mean()
    value = losses.noise_contrastive(
        query, positive, noise, dataset_size=size, normalizer=tf.constant(z, tf.float32)
    )
    # Simulated by others as 10.07, of which 0.13 are the authors' epsilon.
    assert float(tf.reduce_mean(value)) == pytest.approx(10.07 - 0.13, abs=0.3)


def test_even_candidates_give_the_value_of_its_docstring():
    same = np.ones((2, 4), np.float32)
    value = losses.noise_contrastive(
        same, same, np.ones((7, 4)), dataset_size=50, normalizer=50 * math.exp(1 / 0.07)
    )
    np.testing.assert_allclose(value, math.log(8) + 7 * math.log(8 / 7), rtol=1e-5)


def test_half_precision_and_extreme_similarities_stay_finite():
    query = tf.constant([[1.0, 0.0]], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(query)
        value = losses.noise_contrastive(
            query, -query, query, temperature=0.01, dataset_size=10, normalizer=1e-30
        )
    assert value.dtype == tf.float32 and np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, query)).all()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(temperature=0), "temperature=0 received"),
        (dict(dataset_size=0), "dataset_size=0 received"),
        (dict(normalizer=0.0), "normalizer=0.0 received"),
        (dict(noise=np.ones((3, 5))), r"got \(2, 4\), \(2, 4\) and \(3, 5\)"),
    ],
)
def test_clear_errors(arguments, sentence):
    given = dict(
        query=np.ones((2, 4)),
        positive=np.ones((2, 4)),
        noise=np.ones((3, 4)),
        dataset_size=9,
    )
    with pytest.raises(ValueError, match=sentence):
        losses.noise_contrastive(**given | arguments)

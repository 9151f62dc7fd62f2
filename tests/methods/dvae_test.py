import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, make, one_convolution, tiny_tokenizer
from tfssl import methods, stateless


def test_loss_equals_a_slow_form():
    """Sample, decode and sum up, with the numbers of the method."""
    method = make("dvae")
    method.step.assign(10)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    batch = batch_of(images)
    found = method.image_losses(batch, training=True)
    tokenizer = method.encoder
    logits = np.array(tokenizer.logits(images), np.float64)
    chance = np.array(
        stateless.uniform(3, batch["position"], 2 * 2 * 12, purpose="gumbel")
    ).reshape(logits.shape)
    share = (1 + np.cos(np.pi * 10 / 50)) / 2
    temperature = 0.5 + 0.5 * share
    powers = np.exp((logits - np.log(-np.log(chance))) / temperature)
    weights = powers / powers.sum(-1, keepdims=True)
    outputs = np.array(tokenizer.decode(weights.astype("float32")), np.float64)
    mean, scale = outputs[..., :3], np.exp(outputs[..., 3:])
    x = 0.1 + 0.8 * images.astype(np.float64)
    distance = np.abs(np.log(x / (1 - x)) - mean)
    likelihood = -np.log(2 * scale * x * (1 - x)) - distance / scale
    said = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kl = (said * np.log(12 * said)).sum(-1)
    # 10 of 4 steps: the weight has risen.
    loss = (0.5 * kl.sum((1, 2)) - likelihood.sum((1, 2, 3))) / (8 * 8 * 3)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)
    reconstruction = -likelihood.mean((1, 2, 3))
    np.testing.assert_allclose(found["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(found["kl"], kl.mean((1, 2)), rtol=1e-4)
    shares = np.bincount(logits.argmax(-1).ravel(), minlength=12) / 12
    np.testing.assert_allclose(found["shares"], shares, atol=1e-6)
    used = shares[shares > 0]
    assert float(found["perplexity"]) == pytest.approx(
        np.exp(-(used * np.log(used)).sum()), rel=1e-5
    )
    assert float(found["codes_used"]) == pytest.approx(len(used) / 12)


def test_samples_are_of_their_place_in_the_stream():
    method = make("dvae")
    logits = tf.zeros((4, 2, 2, 12))
    all_four = method.sampled(logits, tf.range(4, dtype=tf.int64))
    last = method.sampled(logits[:1], tf.constant([3], tf.int64))
    np.testing.assert_array_equal(all_four[3:], last)
    assert np.abs(all_four[0] - all_four[1]).max() > 0
    np.testing.assert_allclose(np.sum(all_four, -1), 1, rtol=1e-5)


def test_the_colder_the_nearer_to_one_code():
    method = make("dvae")
    logits = tf.zeros((64, 2, 2, 12))
    position = tf.range(64, dtype=tf.int64)
    largest = []
    for step in (0, 25, 50):
        method.step.assign(step)
        largest.append(np.max(method.sampled(logits, position), axis=-1).mean())
    assert largest[0] < largest[1] < largest[2]
    method.temperature = 1e-3
    np.testing.assert_allclose(
        np.max(method.sampled(logits, position), axis=-1).mean(), 1, atol=1e-2
    )


def test_usage_is_the_mean_of_the_steps_at_first():
    method = make("dvae")
    images = np.random.default_rng(0).uniform(size=(2, 4, 8, 8, 3)).astype("float32")
    shares = []
    for step, view in enumerate(images):
        batch = batch_of(view)
        shares.append(np.array(method.image_losses(batch, training=True)["shares"]))
        method.step.assign(step + 1)
        method._remember(tf.constant(shares[-1]))
    np.testing.assert_allclose(method.encoder.usage, np.mean(shares, 0), atol=1e-6)


def test_usage_looks_back_on_a_hundred_steps_later():
    """Each step is a hundredth of it, after the first hundred."""
    method = make("dvae")
    usage = np.random.default_rng(0).uniform(size=12).astype("float32")
    shares = np.random.default_rng(1).uniform(size=12).astype("float32")
    for step, share in ((50, 1 / 50), (100, 1 / 100), (250, 1 / 100)):
        method.encoder.usage.assign(usage)
        method.step.assign(step)
        method._remember(tf.constant(shares))
        expected = (1 - share) * usage + share * shares
        np.testing.assert_allclose(method.encoder.usage, expected, atol=1e-6)


def test_dead_codes_hardly_occurred():
    """With less than a hundredth of what each of 12 codes would have by chance."""
    method = make("dvae")
    usage = np.full(12, 0.1, np.float32)
    usage[:3] = 0, 0.0008, 0.0009  # A hundredth is 0.00083.
    method.encoder.usage.assign(usage)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    found = method.image_losses(batch_of(images), training=False)
    assert float(found["dead_codes"]) == pytest.approx(2 / 12)


def test_pixels_by_their_squares():
    keras.utils.set_random_seed(1)
    method = methods.DVAE(tiny_tokenizer(likelihood="mse"), kl_weight=0.0)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    found = method.image_losses(batch_of(images), training=False)
    tokens = method.encoder.tokens(images)
    outputs = method.encoder.decode(tf.one_hot(tokens, 12))
    expected = np.square(np.array(outputs) - images).mean((1, 2, 3))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], expected, rtol=1e-5)


def test_refused():
    with pytest.raises(ValueError, match="expected a tfssl.models.Tokenizer"):
        methods.DVAE(one_convolution())
    with pytest.raises(ValueError, match="temperature=0 received"):
        methods.DVAE(tiny_tokenizer(), temperature=0)

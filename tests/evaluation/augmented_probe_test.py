import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import supervised_test
from tfssl import data
from tfssl.data import views
from tfssl.evaluation import augmented_probe, features, linear_heads
from tfssl.models import norms

PLAIN = data.Preprocessing(size=12, channels=1)
VIEWS = (views.View(size=12, area=(0.5, 1.0), flip=0.5, jitter=0.0),)


def encoder(dtype="float32"):
    keras.utils.set_random_seed(0)
    images = keras.Input((12, 12, 1))
    x = keras.layers.Conv2D(6, 3, strides=3, dtype=dtype)(images)
    x = norms.BatchNorm(dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(keras.layers.ReLU(dtype=dtype)(x))
    return keras.Model(images, keras.layers.Dense(16, dtype=dtype)(x))


def levels(num, seed):
    """Three classes of brightness: the middle one needs trained weights."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    images = rng.integers(0, 40, (num, 12, 12, 1)) + 80 * labels.reshape(-1, 1, 1, 1)
    return data.open_source((images.astype(np.uint8), labels))


def noisy(num, seed):
    """Two classes of noise, one a little brighter above than the other."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 2
    images = rng.integers(0, 220, (num, 12, 12, 1))
    images[labels == 1, :6] += 35
    return data.open_source((images.astype(np.uint8), labels))


def probe(network=None, sources=None, take=None, **changes):
    network = network or encoder()
    pairs = ((40, 0), (30, 1))
    source, test = sources or [supervised_test.quarters(*pair) for pair in pairs]
    extract = features.Extractor(network)
    bank, queries = (extract(data.labeled(s, PLAIN)) for s in (source, test))
    if take is not None:
        bank = bank.take(take)
    arguments = {
        "preprocessing": PLAIN,
        "recipe": VIEWS,
        "epochs": 1,
        "min_steps": 40,
        "batch_size": 16,
        "rates": (0.001, 1.0, 10.0),
        "verbose": 0,
    } | changes
    return augmented_probe.train(network, source, bank, queries, **arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "lars", "rates": (100.0,), "standardize": True},
        {"schedule": "step", "standardize": True, "initial": "normal"},
    ],
)
def test_learns_repeats_and_leaves_the_encoder_alone(changes):
    network = encoder()
    before = [np.array(v) for v in network.variables]
    first = probe(network, **changes)
    assert first.accuracy > 0.9 and first.top5 == 1.0  # Two classes.
    assert probe(network, **changes) == first
    for a, b in zip(before, network.variables):
        np.testing.assert_array_equal(a, b)


def test_the_protocol_tells_everything():
    found = probe(weight_decays=(0.0, 0.01))
    assert found.steps == 40  # 2 batches of 16 an epoch, 20 epochs.
    assert [pair[:2] for pair in found.validation] == [
        (rate, decay) for rate in (0.001, 1.0, 10.0) for decay in (0.0, 0.01)
    ]
    best = max(accuracy for *_, accuracy in found.validation)
    assert (found.rate, found.weight_decay, best) in found.validation
    for text in (
        "random crop 0.5 to 1 of the area, flip 0.5; test: whole image",
        "SGD, Nesterov momentum 0.9, cosine schedule, 40 steps of 16 (20 epochs)",
        f"rate {found.rate:g} x batch / 256",
        "by accuracy on 8 held-out images (0.001 and decay 0: ",
        "zeros start, raw features (16), 40 train / 30 test images, top-2 100.0",
    ):
        assert text in found.protocol, text
    assert "at the end of the grid" in probe(rates=(0.001, 1.0)).protocol
    alone = probe(rates=1.0)
    assert "rate 1 x batch / 256 given, zeros start" in alone.protocol
    assert alone.validation == ()


def test_equals_a_probe_written_out():
    """A rate, trained alone on all images by Keras on the same views."""
    network, source = encoder(), supervised_test.quarters(40, 0)
    optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True)
    head = keras.layers.Dense(2, kernel_initializer="zeros")
    head.build((None, 16))
    optimizer.build(head.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stream = data.multiview(source, VIEWS, batch_size=16, with_labels=True)
    # Keras keeps the rate inside its slot: with a constant rate both forms agree,
    # so both run without their schedule here.
    constant = np.ones(14)
    heads = linear_heads.LinearHeads([0.125], [0.0], [1], 16, 2)
    state = augmented_probe._trained(
        heads, network, stream, (source.labels == 8) * 1, np.zeros(40, bool),
        constant, 0,
    )  # fmt: skip
    optimizer.learning_rate = 0.125
    for _, batch in zip(constant, stream):
        x = network(batch["views"]["view_0"], training=False)
        with tf.GradientTape() as tape:
            loss = loss_of(batch["label"] == 8, head(x))
        weights = head.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
    np.testing.assert_allclose(state["kernel"][:, 0], head.kernel, atol=1e-5)
    np.testing.assert_allclose(state["bias"][0], head.bias, atol=1e-5)


def test_the_number_is_that_of_the_chosen_rate_trained_alone_on_all_images():
    """On images so noisy that other weights know others of them."""
    pixels = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten()])
    source, test = noisy(40, 0), noisy(400, 1)
    found = probe(pixels, (source, test), rates=(0.5, 2.0), min_steps=14, epochs=7)
    stream = data.multiview(source, VIEWS, batch_size=16)
    heads = linear_heads.LinearHeads([found.rate / 16], [0.0], [1], 144, 2)
    state = augmented_probe._trained(
        heads, pixels, stream, source.labels, np.zeros(40, bool),
        augmented_probe._factors("cosine", 14), 0,
    )  # fmt: skip
    queries = features.extract(pixels, data.labeled(test, PLAIN))
    top1, _, _ = heads.scores(state, queries.values, queries.labels)
    assert found.accuracy == top1[0]
    assert 0.55 < found.accuracy < 0.95


def test_the_test_set_does_not_choose():
    network, source = encoder(), supervised_test.quarters(40, 0)
    extract = features.Extractor(network)
    bank = extract(data.labeled(source, PLAIN))
    found = [
        augmented_probe.train(
            network, source, bank, extract(data.labeled(test, PLAIN)),
            preprocessing=PLAIN, recipe=VIEWS, epochs=1, min_steps=10,
            rates=(0.001, 0.1, 10.0), verbose=0,
        )
        for test in (
            supervised_test.quarters(30, 1),
            supervised_test.quarters(30, 1, (8, 3)),
        )
    ]  # fmt: skip
    assert found[0].validation == found[1].validation
    assert found[0].rate == found[1].rate
    # Swapped labels: every right answer is wrong.
    assert found[1].accuracy == pytest.approx(1 - found[0].accuracy)


def test_wrong_rates_lose_and_overflow_is_survived():
    pixels = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten()])
    settings = {"sources": (levels(45, 0), levels(30, 1)), "min_steps": 100}
    found = probe(pixels, rates=(1e-9, 1.0, 3e38), **settings)
    # A tiny step points at the brightest class for every image; infinite weights
    # count as wrong everywhere.
    tiny, right, huge = (accuracy for *_, accuracy in found.validation)
    assert (found.rate, huge) == (1.0, 0.0)
    assert tiny == pytest.approx(1 / 3) and right > 0.8 and found.accuracy > 0.8
    with pytest.raises(ValueError, match="without overflow; add smaller ones"):
        probe(pixels, rates=(3e38, 3.1e38), **settings)


def test_few_labels():
    rows = np.array([0, 1])  # One image of each class.
    found = probe(take=rows, rates=(0.1, 1.0, 10.0))
    assert found.rate == 1.0 and found.validation == ()
    assert "nothing held out to choose by" in found.protocol
    assert "40 steps of 2 " in found.protocol
    assert "2 train / 30 test" in found.protocol
    # Images are found by their index, whatever the order of the features.
    rows = np.array([13, 2, 9, 30, 31, 7])
    assert probe(take=rows) == probe(take=np.sort(rows))
    # Classes that were not trained are wrong answers, not errors.
    pair = supervised_test.quarters(40, 0), supervised_test.quarters(30, 1, (3, 77))
    assert 0.4 < probe(sources=pair).accuracy <= 0.5


def test_sources_that_are_read_in_sequence():
    source, test = supervised_test.quarters(40, 0), supervised_test.quarters(30, 1)
    images = np.stack([source.read(tf.constant(i)) for i in range(40)])
    dataset = tf.data.Dataset.from_tensor_slices((images, source.labels))
    sequential = data.open_source(dataset)
    rows = np.arange(0, 40, 3)
    for take in (None, rows):
        found = probe(sources=(sequential, test), take=take)
        assert found.accuracy > 0.9
    assert f"{len(rows)} train" in found.protocol


def test_mixed_precision_features():
    for dtype in ("mixed_bfloat16", "mixed_float16"):
        assert probe(encoder(dtype)).accuracy > 0.9


def test_views_agree_with_the_preprocessing():
    plain = dataclasses.replace(PLAIN, mean=0.3, std=0.2, resize="bicubic")
    (view,) = augmented_probe.crop_and_flip(plain)
    assert (view.area, view.flip, view.jitter, view.blur) == ((0.08, 1.0), 0.5, 0, 0)
    still = view.scaled(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    source = supervised_test.quarters(8, 0)
    batch = next(iter(data.multiview(source, [still], batch_size=8)))
    expected = next(
        iter(data.labeled(source, plain, batch_size=8, indices=batch["index"].numpy()))
    )
    np.testing.assert_allclose(batch["views"]["view_0"], expected["image"], atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs=0 received, expected a whole number, 1"),
        ({"batch_size": 0}, "batch_size=0 received, expected a whole number"),
        ({"schedule": "linear"}, "schedule='linear' received"),
        ({"optimizer": "adam", "rates": None}, "optimizer='adam' received"),
        ({"rates": (-1.0, 1.0)}, "Learning rates"),
        (
            {"validation_fraction": 0.0},
            "validation_fraction=.* a number in .0, 1.",
        ),
        ({"take": np.array([0, 2])}, "at least two classes"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        probe(**changes)

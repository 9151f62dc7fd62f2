"""What is SimCLR's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, unit
from tests.methods.cases import one_convolution as encoder
from tests.methods.cases import two_views as views
from tfssl import data, methods
from tfssl.models import norms


def paper_loss(z_a, z_b, temperature, remembered=()):
    """Algorithm 1 with loops, float64: the mean of each image's two anchors."""
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z_a)
    losses = np.zeros(n)
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(
            math.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i
        )
        others += sum(math.exp(z[i] @ row / temperature) for row in remembered)
        losses[i % n] -= 0.5 * math.log(math.exp(z[i] @ z[j] / temperature) / others)
    return losses


def test_loss_is_the_papers_on_the_projected_views():
    keras.utils.set_random_seed(0)
    method = methods.SimCLR(encoder(), temperature=0.3, projection_dim=4)
    view_a, view_b = views()
    values = method.image_losses(batch_of(view_a, view_b), training=True)
    # One batch of both views goes through encoder and head.
    z = method.project(np.concatenate([view_a, view_b]), training=True)
    z_a, z_b = z[:5].numpy(), z[5:].numpy()
    np.testing.assert_allclose(values["loss"], paper_loss(z_a, z_b, 0.3), rtol=1e-5)
    unit_a, unit_b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z_a, z_b))
    hits = (unit_a @ unit_b.T).argmax(axis=1) == np.arange(5)
    np.testing.assert_array_equal(values["contrastive_accuracy"], hits)


def test_collapsed_embeddings_give_the_chance_loss():
    method = methods.SimCLR(encoder(), projection_dim=4)
    for variable in method.projector.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    losses = method.image_losses(batch_of(*views(batch=7)), training=True)["loss"]
    np.testing.assert_allclose(losses, math.log(2 * 7 - 1), rtol=1e-6)
    assert method.chance_loss(7) == pytest.approx(math.log(13))
    assert method.num_negatives(7) == 12


def test_blockwise_loss_and_gradient_equal_the_plain_ones():
    def run(block_size):
        keras.utils.set_random_seed(0)
        method = methods.SimCLR(encoder(), projection_dim=4, block_size=block_size)
        with tf.GradientTape() as tape:
            losses = method.image_losses(batch_of(*views(batch=6)), training=True)[
                "loss"
            ]
        return losses, tape.gradient(
            losses, [v.value for v in method.learned_variables]
        )

    plain, blockwise = run(None), run(4)
    np.testing.assert_allclose(plain[0], blockwise[0], rtol=1e-5)
    largest = max(np.abs(g).max() for g in plain[1])
    for a, b in zip(plain[1], blockwise[1]):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)


def test_heads_have_the_papers_sizes():
    # 2048 x 2048 + BN, 2048 x 128 + scale; SimCLRv2 has one more hidden layer.
    network = encoder(dim=2048)  # As many features as a ResNet-50 has.
    for layers, expected in ((2, 4_460_672), (3, 8_659_072)):
        method = methods.SimCLR(network, projection_layers=layers)
        count = sum(int(np.prod(v.shape)) for v in method.projector.trainable_variables)
        assert count == expected
    assert method.projector.output_shape == (None, 128)


def test_the_encoder_is_what_call_gives_and_the_head_what_embed_gives():
    method = methods.SimCLR(encoder(), projection_dim=4)
    images = views()[0]
    np.testing.assert_array_equal(method(images), method.encoder(images))
    np.testing.assert_array_equal(
        method.embed(images), method.projector(method.encoder(images))
    )


def with_memory(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(temperature=0.3, projection_dim=4, queue_size=12, momentum=0.8)
    norm = norms.BatchNorm(statistics="global")
    return methods.SimCLR(encoder(norm=norm), **small | arguments)


@pytest.mark.parametrize("block_size", [None, 5])
def test_the_memory_is_in_the_denominator_of_both_anchors(block_size):
    method = with_memory(block_size=block_size)
    images = views()
    losses = method.image_losses(batch_of(*images), training=True)["loss"]
    z = method.project(np.concatenate(images), training=True).numpy()
    remembered = np.array(method.queue.rows)
    expected = paper_loss(z[:5], z[5:], 0.3, remembered)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.abs(expected - paper_loss(z[:5], z[5:], 0.3)).min() > 0.1
    assert method.num_negatives(5) == 8 + 12


def test_the_momentum_encoder_moves_first_and_its_embeddings_enter_last():
    """Followed by hand for three steps; 10 embeddings go around a queue of 12."""
    method = with_memory()
    method.compile(keras.optimizers.SGD(0.5))
    method.build_optimizer()
    queue, pointer = np.array(method.queue.rows, np.float64), 0
    theirs = method.target.trainable_variables
    for step in range(3):
        before = [np.array(v) for v in method.learned_variables]
        moved = [0.8 * np.array(t) + 0.2 * v for t, v in zip(theirs, before)]
        images = views(seed=step)
        method.train_step(batch_of(*images))
        for ours, target in zip(moved, theirs, strict=True):
            np.testing.assert_allclose(target, ours, rtol=1e-5, atol=1e-6)
        assert np.abs(np.array(method.learned_variables[0]) - before[0]).max() > 1e-5
        # Both views at once, as the trained encoder sees them: first all of view 0.
        for z in unit(method.target(np.concatenate(images), training=True)):
            queue[pointer] = z
            pointer = (pointer + 1) % 12
        np.testing.assert_allclose(method.queue.rows, queue, atol=1e-6)


def test_a_memory_of_one_direction_gives_the_chance_loss():
    method = with_memory()
    for variable in method.projector.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    losses = method.image_losses(batch_of(*views()), training=True)["loss"]
    np.testing.assert_allclose(losses, math.log(2 * 5 - 1 + 12), rtol=1e-6)
    assert method.chance_loss(5) == pytest.approx(math.log(21))


def test_without_memory_there_is_nothing_of_it():
    method = methods.SimCLR(encoder(), projection_dim=4)
    assert method.target is None and method.queue is None and not method.followers
    networks = method.encoder.variables + method.projector.variables
    assert len(method.variables) == len(networks) + 2  # Two counters.
    assert methods.SimCLR(encoder(), queue_size=8).momentum == 0.999
    assert method.momentum is None
    assert method.notes(256, 100) == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"queue_size": -1, "momentum": None}, "queue_size=-1 received, expected a wh"),
        ({"momentum": 1.5}, "momentum=1.5 received, expected a number from 0 to 1"),
        (
            {"queue_size": 0},
            "momentum=0.8 received with queue_size=0, .* queue_size as",
        ),
    ],
)
def test_a_memory_that_cannot_work_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        with_memory(**arguments)


def test_a_memory_smaller_than_the_batch_or_larger_than_the_data_is_told():
    method = with_memory()
    source = data.open_source(np.zeros((100, 1, 1, 1), np.uint8))
    with pytest.raises(ValueError, match="queue_size=12 received for batches of 16"):
        method.check_run(16, source)
    method.check_run(12, source)
    assert method.notes(8, 13) == []
    (line,) = method.notes(8, 12)
    assert line.startswith("queue of 12 embeddings for 12 images: images meet")

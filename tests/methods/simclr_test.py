"""What is SimCLR's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of
from tests.methods.cases import one_convolution as encoder
from tests.methods.cases import two_views as views
from tfssl import methods, models


def paper_loss(z_a, z_b, temperature):
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
    network = models.resnet(50, input_shape=(32, 32, 3), stem="cifar")
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

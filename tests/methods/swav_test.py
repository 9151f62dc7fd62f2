"""What is SwAV's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses.clustering_test import plain_sinkhorn
from tests.methods.cases import batch_of, one_convolution, two_views, unit
from tfssl import data, methods


def encoder():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3)(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def make(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(
        num_prototypes=5, projection_hidden=8, projection_dim=4, freeze_epochs=0
    )
    method = methods.SwAV(encoder(), **small | arguments)
    method.compile(keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def crops(batch=6, seed=0):
    """Two large and two small views."""
    large, small = two_views(batch, seed), two_views(batch, seed + 1)
    return [*large, *(view[:, 2:7, 1:6] for view in small)]


def embedded(method, views):
    """Embeddings of every view: each size passes encoder and batch norm alone."""
    features = [
        method.encoder(np.concatenate(views[:2]), training=True),
        method.encoder(np.concatenate(views[2:]), training=True),
    ]
    z = method.projector(np.concatenate(features), training=True)
    return np.split(unit(z), len(views))


def cross_entropy(codes, scores, temperature):
    logits = scores / temperature
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -(codes * log_p).sum(axis=1)


def test_loss_is_the_swapped_prediction_of_the_paper():
    method, views = make(temperature=0.2), crops()
    values = method.image_losses(batch_of(*views), training=True)
    prototypes = np.array(method.prototypes, np.float64)
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-6)
    scores = [z @ prototypes.T for z in embedded(method, views)]
    expected, entropy = np.zeros(6), np.zeros(6)
    for i in (0, 1):
        codes = plain_sinkhorn(scores[i], 0.05, 3)
        entropy -= (codes * np.log(np.maximum(codes, 1e-300))).sum(axis=1) / 2
        for v in range(4):
            if v != i:
                expected += cross_entropy(codes, scores[v], 0.2) / (2 * 3)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(values["code_entropy"], entropy, rtol=1e-3, atol=1e-4)
    p = np.exp(scores[0] / 0.2)
    p = (p / p.sum(axis=1, keepdims=True)).mean(axis=0)
    used = math.exp(-(p * np.log(p)).sum())
    assert float(values["prototypes_used"]) == pytest.approx(used, rel=1e-4)


def test_the_queue_counts_from_when_it_is_full_and_holds_what_came_before():
    # Filled from step 4 on: 12 embeddings of 6 a step are there after 2 steps.
    method = make(queue_size=12, queue_epoch=2, steps_per_epoch=2)
    reference = make()
    for step in range(8):
        views = crops(seed=10 * step)
        for name in ("encoder", "projector"):
            for target, value in zip(
                getattr(reference, name).variables, getattr(method, name).variables
            ):
                target.assign(value)
        reference.prototypes.assign(method.prototypes)
        rows = [np.array(queue.rows, np.float64) for queue in method.queues]
        prototypes = np.array(method.prototypes, np.float64)
        found = method.image_losses(batch_of(*views), training=True)
        alone = reference.image_losses(batch_of(*views), training=True)["loss"]
        if step < 6:
            np.testing.assert_allclose(found["loss"], alone, rtol=1e-5)
        else:
            scores = [z @ prototypes.T for z in embedded(method, views)]
            expected = np.zeros(6)
            for i in (0, 1):
                together = np.concatenate([rows[i] @ prototypes.T, scores[i]])
                codes = plain_sinkhorn(together, 0.05, 3)[-6:]
                for v in range(4):
                    if v != i:
                        expected += cross_entropy(codes, scores[v], 0.1) / 6
            np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)
            assert np.abs(found["loss"] - alone).max() > 1e-4
        stored = [z.numpy() for z in found["embeddings"]]
        method.train_step(batch_of(*views))
        for queue, z in zip(method.queues, stored):
            newest = np.roll(queue.rows, -int(queue.pointer.numpy()), axis=0)[-6:]
            np.testing.assert_allclose(newest, z, atol=1e-5)


def test_prototypes_are_frozen_for_their_epochs_and_always_of_length_one():
    method = make(freeze_epochs=1.5, steps_per_epoch=2)
    method.compile(keras.optimizers.SGD(0.5, momentum=0.9))
    assert method.freeze_steps == 3
    for step in range(5):
        before = np.array(method.prototypes)
        kernel = np.array(method.encoder.trainable_variables[0])
        method.build_optimizer()
        method.train_step(batch_of(*crops(seed=step)))
        after = np.array(method.prototypes)
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-6)
        if step < 3:
            np.testing.assert_allclose(before, after, atol=1e-7)
        else:
            assert np.abs(after - before).max() > 1e-4
        assert np.abs(kernel - method.encoder.trainable_variables[0]).max() > 0


def test_a_step_moves_prototypes_by_the_gradient_and_normalizes_them():
    method, views = make(), batch_of(*crops())
    before = np.array(method.prototypes, np.float64)
    with tf.GradientTape() as tape:
        losses = method.image_losses(views, training=True)["loss"]
        loss = tf.reduce_mean(losses)
    gradient = tape.gradient(loss, method.prototypes.value).numpy()
    method.train_step(views)
    np.testing.assert_allclose(method.prototypes, unit(before - 0.1 * gradient), 1e-5)


def test_one_resolution_takes_one_pass(monkeypatch):
    method, passes = make(), []
    call = method.encoder.call

    def counted(images, *args, **kwargs):
        passes.append(tuple(images.shape))
        return call(images, *args, **kwargs)

    monkeypatch.setattr(method.encoder, "call", counted)
    method.image_losses(batch_of(*crops()), training=True)
    assert passes == [(12, 8, 8, 3), (12, 5, 5, 3)]


def test_what_a_run_is_told():
    method = make(
        num_prototypes=3000,
        queue_size=3840,
        queue_epoch=15,
        freeze_epochs=1,
        steps_per_epoch=5005,
    )
    text = "\n".join(method.notes(256, 1_281_167))
    # 15 epochs and 3840 / 256 steps.
    assert "frozen for 5,005 steps (1 epochs)" in text
    assert "queue of 3,840 embeddings, used from step 75,090" in text
    assert method.chance_loss(256) == pytest.approx(8.006, abs=1e-3)
    assert (
        "3,000 prototypes share 256 images"
        in make(num_prototypes=3000).notes(256, 50_000)[-1]
    )


def test_a_run_with_more_prototypes_than_images_is_refused():
    source = data.open_source(np.zeros((50, 1, 1, 1), np.uint8))
    make(num_prototypes=50).check_run(16, source)
    with pytest.raises(ValueError, match="num_prototypes=51 received for 50 images"):
        make(num_prototypes=51).check_run(16, source)


def test_the_heads_have_the_papers_sizes():
    network = keras.Sequential([keras.Input((2048,)), keras.layers.Identity()])
    method = methods.SwAV(network, freeze_epochs=0)
    # 2048 x 2048 + bias, batch norm, 2048 x 128 + bias, 3000 prototypes of 128.
    expected = (2048 * 2048 + 2048) + 2 * 2048 + (2048 * 128 + 128) + 3000 * 128
    trained = method.projector.trainable_variables + [method.prototypes]
    assert sum(int(np.prod(v.shape)) for v in trained) == expected


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"temperature": 0}, "temperature=0 received"),
        ({"epsilon": -1}, "epsilon=-1 received"),
        ({"num_prototypes": 0}, "num_prototypes=0 received"),
        ({"queue_size": -1}, "queue_size=-1 received"),
        ({"freeze_epochs": 1}, "freeze_epochs=1, .* without steps_per_epoch"),
        ({"queue_size": 8}, "queue_epoch=15 received without steps_per_epoch"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_a_queue_that_does_not_divide_is_refused(mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        method = methods.SwAV(
            one_convolution(),
            num_prototypes=5,
            projection_dim=4,
            queue_size=9,
            queue_epoch=0,
            freeze_epochs=0,
        )
    batch = batch_of(*two_views(4))
    with pytest.raises(
        ValueError, match="queue_size=9 does not divide over 2 .* use 8"
    ):
        step = tf.function(lambda: strategy.run(method.image_losses, (batch, True)))
        step()

"""What is BYOL's own; what every method promises is in contract_test.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, unit
from tests.methods.cases import one_convolution as encoder
from tests.methods.cases import two_views as views
from tfssl import methods, models


def make(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(projection_hidden=8, projection_dim=4)
    return methods.BYOL(encoder(), **small | arguments)


def test_loss_is_the_papers_with_the_views_exchanged():
    method = make()
    # The target must not be the online network, or mistakes would not show.
    for variable in method.target.trainable_variables:
        variable.assign(variable * 1.3 + 0.1)
    view_a, view_b = views()
    losses = method.image_losses(batch_of(view_a, view_b), training=True)["loss"]
    q_a, q_b = (unit(method.predict_target(v, training=True)) for v in (view_a, view_b))
    t_a, t_b = (unit(method.target(v, training=True)) for v in (view_a, view_b))
    expected = [
        np.sum((q_a[i] - t_b[i]) ** 2) + np.sum((q_b[i] - t_a[i]) ** 2)
        for i in range(5)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    swapped = method.image_losses(batch_of(view_b, view_a), training=True)["loss"]
    np.testing.assert_allclose(losses, swapped, rtol=1e-6)


def test_the_target_follows_the_updated_network_with_a_rising_momentum():
    method = make(momentum=0.5, total_steps=4)
    method.compile(keras.optimizers.SGD(0.1))
    target = np.array(method.target.trainable_variables[0], np.float64)
    for step in range(4):
        view_a, view_b = views(seed=step)
        method.build_optimizer()
        method.train_step(batch_of(view_a, view_b))
        momentum = 1 - 0.5 * (np.cos(np.pi * step / 4) + 1) / 2
        online = np.array(method.encoder.trainable_variables[0])
        target = momentum * target + (1 - momentum) * online  # After the update.
        np.testing.assert_allclose(
            method.target.trainable_variables[0], target, atol=1e-6
        )


def test_the_gradient_is_four_times_that_of_the_mean_of_negative_cosines():
    """0.5 * (-cos - cos), as lightly has it, in NumPy by differences."""
    method = make()
    view_a, view_b = views()
    (kernel,) = method.predictor.layers[-1].trainable_variables
    with tf.GradientTape() as tape:
        losses = method.image_losses(batch_of(view_a, view_b), training=True)["loss"]
        loss = tf.reduce_mean(losses)
    ours = tape.gradient(loss, kernel.value)

    def hidden(view):
        x = method.projector(method.encoder(view, training=True), training=True)
        for layer in method.predictor.layers[:-1]:
            norm = isinstance(layer, models.norms.BatchNorm)
            x = layer(x, training=True) if norm else layer(x)
        return np.array(x, np.float64)

    pairs = [
        (hidden(view), unit(np.array(method.target(other, training=True), np.float64)))
        for view, other in ((view_a, view_b), (view_b, view_a))
    ]

    def lightlys(w):
        cosines = [np.sum(unit(h @ w) * z, axis=1).mean() for h, z in pairs]
        return 0.5 * (-cosines[0] - cosines[1])

    w = np.array(kernel, np.float64)
    theirs = np.zeros_like(w)
    for place in np.ndindex(*w.shape):
        step = np.zeros_like(w)
        step[place] = 1e-5
        theirs[place] = (lightlys(w + step) - lightlys(w - step)) / 2e-5
    assert np.abs(theirs).max() > 1e-2
    np.testing.assert_allclose(ours, 4.0 * theirs, rtol=1e-3, atol=1e-5)


def test_heads_have_the_codes_sizes():
    network = encoder(dim=2048)  # As many features as a ResNet-50 has.
    method = methods.BYOL(network)
    sizes = [
        sum(int(np.prod(v.shape)) for v in head.trainable_variables)
        for head in (method.projector, method.predictor)
    ]
    assert sizes == [9_449_472, 2_109_440]
    assert len(method.learned_variables) == len(
        network.trainable_variables
        + method.projector.trainable_variables
        + method.predictor.trainable_variables
    )


def test_a_collapsed_network_has_loss_zero_and_an_opposite_one_eight():
    method = make()
    images = views()[0]
    target = unit(method.target(images, training=False))
    same = unit(method.predict_target(images))
    loss = method.image_losses(batch_of(images, images), training=False)["loss"]
    np.testing.assert_allclose(
        loss, 2 * np.sum((same - target) ** 2, axis=1), rtol=1e-4
    )
    for head in (method.predictor, *method.target.networks[1:]):
        for variable in head.trainable_variables:
            variable.assign(np.zeros(variable.shape))
    loss = method.image_losses(batch_of(images, images), training=True)["loss"]
    # Zero vectors have no direction: cosine 0, 2 for each of the two terms.
    np.testing.assert_allclose(loss, 4.0)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"momentum": 1.2}, "momentum=1.2 received, expected a number from 0 to 1"),
        ({"total_steps": 0}, "total_steps=0 received"),
        ({"projection_dim": 0}, "positive integers"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)

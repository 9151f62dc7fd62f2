import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tfssl import methods
from tfssl.methods import transforms


def means():
    """An encoder whose features are the mean colours of the left and the upper half."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Lambda(
        lambda x: tf.concat(
            [
                tf.reduce_mean(x[:, :, : tf.shape(x)[2] // 2], [1, 2]),
                tf.reduce_mean(x[:, : tf.shape(x)[1] // 2], [1, 2]),
            ],
            -1,
        ),
        output_shape=(6,),
    )(inputs)
    return keras.Model(inputs, x)


def features_of(image):
    half = len(image) // 2
    left, upper = image[:, :half], image[:half]
    return np.concatenate([left.mean((0, 1)), upper.mean((0, 1))]).astype(np.float64)


def cross_entropy(logits, target):
    logits = logits - logits.max()
    return np.log(np.exp(logits).sum()) - logits[target]


def test_rotation_is_the_mean_of_four_cross_entropies():
    method = methods.Pretext(means(), task="rotation")
    kernel, bias = (v.value for v in method.classifier.trainable_variables)
    method.classifier.trainable_variables[0].assign(
        np.random.default_rng(1).normal(size=kernel.shape)
    )
    view = cases.two_views()[0]
    found = method.image_losses(cases.batch_of(view), training=True)
    losses, hits = [], []
    weights = np.array(method.classifier.trainable_variables[0], np.float64)
    for image in view:
        logits = [features_of(np.rot90(image, k)) @ weights for k in range(4)]
        losses.append(np.mean([cross_entropy(x, k) for k, x in enumerate(logits)]))
        hits.append(np.mean([np.argmax(x) == k for k, x in enumerate(logits)]))
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(found["task_accuracy"], hits)


def test_jigsaw_asks_for_the_order_that_the_tiles_have():
    method = methods.Pretext(
        means(), task="jigsaw", num_permutations=10, num_tiles=4, tile_dim=5, seed=2
    )
    rng = np.random.default_rng(1)
    for variable in method.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    view = cases.two_views()[0]
    tiles = cases.in_tiles(view, 2)
    batch = cases.batch_of(tiles)
    batch["position"] += 40
    found = method.image_losses(batch, training=False)
    table = np.array(method.permutations)
    target = transforms.choices(2, batch["position"], 10, purpose="order of tiles")
    assert len(set(target.numpy())) > 1
    dense, gamma, beta = (np.array(v) for v in method.tile_layer.trainable_variables)
    kernel, bias = (np.array(v) for v in method.classifier.trainable_variables)
    epsilon = method.tile_layer.layers[-1].epsilon
    losses = []
    for image, answer in zip(tiles, target.numpy()):
        shown = [features_of(image[tile]) for tile in table[answer]]
        made = np.stack(shown) @ dense / np.sqrt(1 + epsilon) * gamma + beta
        logits = np.maximum(made, 0).ravel() @ kernel + bias
        losses.append(cross_entropy(logits, answer))
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-4)
    # The same image at another place of the stream has another order.
    again = method.image_losses({**batch, "position": batch["position"] + 5}, False)
    assert np.abs(again["loss"] - found["loss"]).max() > 1e-3


def test_what_it_says_of_itself():
    rotation = methods.Pretext(means())
    assert rotation.chance_loss(8) == pytest.approx(np.log(4))
    assert rotation.epoch_numbers() == {"chance_accuracy": 0.25}
    assert rotation.notes(8, 100) == ["4 positions of every image; chance finds 25.00%"]
    jigsaw = methods.Pretext(means(), task="jigsaw", num_permutations=24, num_tiles=4)
    assert jigsaw.chance_loss(8) == pytest.approx(np.log(24))
    (line,) = jigsaw.notes(8, 100)
    assert line.startswith("24 orders of 4 tiles, two of which differ in 78.3%")
    assert methods.Pretext.recipe_for(task="jigsaw").name == "jigsaw"
    assert methods.Pretext.recipe_for().name == "rotation"
    assert methods.Pretext.tiled_views(task="jigsaw") == (0,)


def test_clear_errors():
    with pytest.raises(ValueError, match="task='turn' received, expected one of rot"):
        methods.Pretext(means(), task="turn")
    with pytest.raises(ValueError, match="=25 received for 4 tiles, of .* 24 orders"):
        methods.Pretext(means(), task="jigsaw", num_permutations=25, num_tiles=4)
    with pytest.raises(ValueError, match="num_permutations=1 received"):
        methods.Pretext(means(), task="jigsaw", num_permutations=1)
    method = methods.Pretext(means(), task="jigsaw", num_permutations=6, num_tiles=9)
    with pytest.raises(ValueError, match="Pretext has num_tiles=9 and expects"):
        method.image_losses(cases.batch_of(cases.two_views()[0]), training=True)

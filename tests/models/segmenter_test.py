import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tfssl import models
from tfssl.models import copying, freezing

NAMES = ("sky", "road", "tree")


def vit(**given):
    shape = {"patch": 4, "input_shape": (8, 8, 3)}
    return models.ViT(16, depth=2, heads=2, **shape | given)


def segmenter(encoder=None, **given):
    given = {"image_size": 8, "width": 16} | given
    return models.Segmenter(encoder or vit(), NAMES, **given)


@pytest.mark.parametrize("encoder", [networks.ours, vit])
def test_it_is_the_encoder_and_says_what_every_pixel_is(encoder):
    network = encoder()
    made, images = segmenter(network), networks.pixels()
    np.testing.assert_array_equal(made(images), network(images))
    assert made.stage_outputs is network.stage_outputs
    logits = np.array(made.logits(images))
    assert logits.shape == (4, 8, 8, 3) and logits.dtype == np.float32
    np.testing.assert_array_equal(made.mask(images), logits.argmax(-1))
    assert made.mask(images).dtype == tf.int32
    probabilities = np.array(made.probabilities(images))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(-1), logits.argmax(-1))


def test_only_what_makes_the_logits_is_trained_by_them():
    made = segmenter()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made.logits(networks.pixels(), training=True) ** 2)
    named = {id(v) for v in made.pixel_variables}
    every = made.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in every])
    for variable, gradient in zip(every, gradients):
        assert (gradient is not None) == (id(variable) in named), variable.path
    freezing.freeze(made.encoder, "all")
    left = {id(v) for v in made.pixel_variables}
    assert left == {id(v) for v in made.head.trainable_variables}


def test_it_comes_back_from_its_file(tmp_path):
    made, images = segmenter(name="mine"), networks.pixels()
    path = str(tmp_path / "mine.keras")
    made.save(path)
    for again in (keras.saving.load_model(path), copying.copied(made, "a test")):
        assert isinstance(again, models.Segmenter)
        assert again.class_names == NAMES and again.name == "mine"
        np.testing.assert_array_equal(again.logits(images), made.logits(images))
        np.testing.assert_array_equal(again(images), made(images))


def test_half_precision_gives_float32():
    made = segmenter(vit(dtype="mixed_bfloat16"), dtype="mixed_bfloat16")
    assert made.head.get_layer("judge_0").compute_dtype == "bfloat16"
    assert made.logits(networks.pixels()).dtype == tf.float32


def test_refused():
    with pytest.raises(ValueError, match="names no stages.*such as resnet50"):
        segmenter(networks.sequential())
    with pytest.raises(ValueError, match="class_names=.*'a'.* expected 2 to 255 names"):
        models.Segmenter(vit(), ["a"], image_size=8)
    with pytest.raises(ValueError, match="expected no name twice"):
        models.Segmenter(vit(), ["a", "a"], image_size=8)
    with pytest.raises(ValueError, match="which do not divide"):
        segmenter(image_size=10)
    with pytest.raises(ValueError, match="of 12 x 12 x 3 received, but .* 8 x 8 x 3"):
        segmenter().logits(tf.zeros((1, 12, 12, 3)))

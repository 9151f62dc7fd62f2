import keras
import numpy as np
import pytest

from tfssl import models
from tfssl.evaluation import attention


def network(**arguments):
    keras.utils.set_random_seed(0)
    shape = (None, None, 3)
    return models.ViT(16, depth=2, heads=2, patch=4, input_shape=shape, **arguments)


@pytest.mark.parametrize("relative", ["none", "shared"])
def test_maps_are_the_first_row_of_the_last_blocks_softmax(relative):
    vit = network(relative=relative, position_side=8)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    if relative == "shared":
        rng = np.random.default_rng(1)
        for variable in vit.block_layers[-1].attention.relative.variables:
            variable.assign(rng.normal(size=variable.shape))
    found = attention.maps(vit, images)

    last = vit.block_layers[-1]
    tokens = keras.Model(vit.inputs[0], vit.block_ends[1])(images).numpy()
    tokens = tokens.astype(np.float64)
    tokens -= tokens.mean(axis=2, keepdims=True)
    tokens /= np.sqrt(tokens.var(axis=2, keepdims=True) + 1e-6)
    kernel, bias = (v.numpy().astype(np.float64) for v in last.attention.qkv.variables)
    three = (tokens @ kernel + bias).reshape(3, 5, 3, 2, 8)
    expected = np.zeros((3, 2, 5))
    for image in range(3):
        for head in range(2):
            query = three[image, 0, 0, head]
            scores = three[image, :, 1, head] @ query / np.sqrt(8)
            if relative == "shared":
                scores = scores + last.attention.relative.bias(5)[0, head, 0].numpy()
            shares = np.exp(scores - scores.max())
            expected[image, head] = shares / shares.sum()
    np.testing.assert_allclose(
        found, expected[..., 1:].reshape(3, 2, 2, 2), rtol=1e-4, atol=1e-6
    )


def test_of_images_that_are_not_square():
    found = attention.maps(network(), np.zeros((1, 8, 12, 3), np.float32))
    assert found.shape == (1, 2, 2, 3)


def test_what_a_distillation_token_gets_is_left_out():
    vit = network(distillation_token=True, position_side=8)
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    found = attention.maps(vit, images)
    last = vit.block_layers[-1]
    tokens = keras.Model(vit.inputs[0], vit.block_ends[1])(images)
    shares = last.attention.probabilities(last.norms[0](tokens))
    expected = np.array(shares)[:, :, 0, 2:].reshape(2, 2, 2, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_a_class_token_looks():
    assert attention.has_maps(network())
    assert not attention.has_maps(network(class_token=False, pooling="mean"))
    image = keras.Input((8, 8, 3))
    plain = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    assert not attention.has_maps(plain)

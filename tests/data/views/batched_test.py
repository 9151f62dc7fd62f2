import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import views
from tfssl.data.views import batched, recipes, specs


def both_forms(recipe, channels=3, dtype=np.uint8, shape=(20, 26), batch=6):
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    images = np.random.default_rng(0).random((batch, *shape, channels)) * white
    images = tf.constant(images.astype(dtype))
    recipe = specs.for_channels(recipe, channels)
    numbers = views.sample(recipe, batch=batch, channels=channels, seed=5, step=2)

    @tf.function
    def together():
        packed = views.pack(numbers, recipe, channels)
        resized = batched.geometry(images, packed, recipe)
        return batched.finish(resized, packed, recipe, float(white))

    one = tf.function(lambda n, image: views.apply(n, image, recipe))
    singly = [one(n, image) for n, image in zip(numbers, images)]
    return together(), [np.stack(images) for images in zip(*singly)]


@pytest.mark.parametrize(
    "name, channels, changes",
    [
        ("simclr", 3, {}),
        ("simclr", 1, {"resize": "bilinear", "blur_border": "reflect"}),
        ("simclr_cifar10", 3, {"antialias": True}),
        ("simclr_digits", 1, {"shear": 0.2, "translation": 0.1, "flip": 0.5}),
        ("moco_v2", 3, {}),
        ("moco_v1", 3, {"gray": 0.5}),
        ("byol", 1, {"solarize": 0.5}),
    ],
)
def test_views_of_a_batch_are_those_of_its_images(name, channels, changes):
    recipe = recipes.get(name).scaled(16, **changes)
    together, singly = both_forms(recipe, channels)
    # Rounding of positions near 30 pixels, times the slope of a noisy image; a
    # deviation of 0.225 in the normalised recipes makes it 4.4 times as large.
    tolerance = 2e-5 if recipe[0].mean is None else 1e-4
    for found, expected, view in zip(together, singly, recipe):
        assert found.shape == (6, view.size, view.size, channels)
        if view.solarize:  # A value at the threshold may fall on either side.
            assert np.mean(np.abs(found - expected) > tolerance) < 1e-3
        else:
            np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depth_of_the_images_does_not_matter(dtype):
    together, singly = both_forms(recipes.SIMCLR_CIFAR10.scaled(12), 4, dtype)
    for found, expected in zip(together, singly):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 5), (40, 3)])
def test_narrow_images(shape):
    together, singly = both_forms(recipes.SIMCLR_CIFAR10.scaled(8), shape=shape)
    for found, expected in zip(together, singly):
        np.testing.assert_allclose(found, expected, atol=2e-5)

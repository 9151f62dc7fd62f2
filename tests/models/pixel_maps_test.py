import numpy as np

from tfssl.models import pixel_maps


def test_the_map_and_its_inverse():
    x = np.linspace(0, 1, 11, dtype="float32")
    mapped = pixel_maps.mapped(x)
    np.testing.assert_allclose(mapped, 0.1 + 0.8 * x, atol=1e-7)
    np.testing.assert_allclose(pixel_maps.unmapped(mapped), x, atol=1e-6)
    np.testing.assert_array_equal(pixel_maps.unmapped(np.array([0.0, 1.0])), [0, 1])


def test_pictures_are_of_the_means():
    x = np.array([[0.0, 0.25, 1.0]], "float32")
    value = 0.1 + 0.8 * x
    outputs = np.concatenate([np.log(value / (1 - value)), np.full((1, 3), 5.0)], 1)
    found = pixel_maps.pictures(outputs.astype("float32"), "logit_laplace")
    np.testing.assert_allclose(found, x, atol=1e-6)
    beyond = np.array([[-1.0, 0.5, 2.0]], "float32")
    np.testing.assert_array_equal(pixel_maps.pictures(beyond, "mse"), [[0, 0.5, 1]])


def test_the_layer_maps_in_float32():
    layer = pixel_maps.PixelMap()
    images = np.full((1, 2, 2, 3), 0.5, "float16")
    assert layer(images).dtype == "float32"
    np.testing.assert_allclose(layer(images), 0.5)

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import models


def _plain(images):
    """The two sums of each pixel's neighbours, zeros outside, in float64."""
    gray = images.astype(np.float64).mean(-1)
    count, height, width = gray.shape
    edges = np.zeros((count, height, width, 2))
    kernels = (
        ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
        ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
    )
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    y, x = row + i - 1, column + j - 1
                    if 0 <= y < height and 0 <= x < width:
                        for k in range(2):
                            edges[:, row, column, k] += kernels[k][i][j] * gray[:, y, x]
    return edges


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_edges_also_on_borders(channels):
    images = np.random.default_rng(0).normal(size=(2, 6, 5, channels))
    layer = models.sobel.Sobel()
    edges = layer(images.astype(np.float32))
    np.testing.assert_allclose(edges, _plain(images), atol=1e-5)
    assert layer.compute_output_shape((None, 6, 5, channels)) == (None, 6, 5, 2)
    assert layer.variables == []


def test_a_step_gives_four_at_its_two_columns():
    """Dark left, light right: 1 + 2 + 1 less, seen from the left: negative."""
    image = np.zeros((1, 5, 6, 3), np.float32)
    image[:, :, 3:] = 1
    edges = models.sobel.Sobel()(image).numpy()[0, 2]
    np.testing.assert_array_equal(edges[:, 0], [0, 0, -4, -4, 0, 4])
    np.testing.assert_array_equal(edges[:, 1], 0)


def test_gradient_reaches_the_image_and_file_loads(tmp_path):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, models.sobel.Sobel(name="edges")(inputs))
    images = tf.random.stateless_normal((2, 4, 4, 3), (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(model(images)[:, 1, 1, 0])
    gradient = tape.gradient(loss, images)[0, :, :, 0]
    expected = np.array([[1, 0, -1, 0], [2, 0, -2, 0], [1, 0, -1, 0], [0] * 4]) / 3
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    model.save(tmp_path / "edges.keras")
    again = keras.saving.load_model(tmp_path / "edges.keras")
    np.testing.assert_array_equal(again(images), model(images))

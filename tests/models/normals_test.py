import keras
import numpy as np
import pytest

from tfssl import models


def _plane(normal, distance, height, width, focal):
    """Depth of a plane seen by a pinhole camera, pixel by pixel."""
    depth = np.zeros((1, height, width, 1))
    for row in range(height):
        for column in range(width):
            x = (column + 0.5 - width / 2) / (focal * width)
            y = (row + 0.5 - height / 2) / (focal * width)
            depth[0, row, column] = distance / np.dot(normal, (x, y, 1.0))
    return depth


@pytest.mark.parametrize("focal", [1.0, 0.6])
def test_a_plane_faces_one_way_also_at_its_borders(focal):
    normal = np.array([0.3, 0.5, -0.9])
    normal /= np.linalg.norm(normal)
    depth = _plane(normal, -2.0, 7, 9, focal)
    found = models.depth_to_normals(depth, focal=focal).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(normal, found.shape), atol=1e-4)
    # In any unit.
    np.testing.assert_allclose(
        models.depth_to_normals(depth / 50, focal=focal), found, atol=1e-4
    )
    mirrored = models.depth_to_normals(depth[:, :, ::-1], focal=focal).numpy()
    expected = np.broadcast_to(normal * (-1, 1, 1), found.shape)
    np.testing.assert_allclose(mirrored, expected, atol=1e-4)


def test_a_wall_faces_the_camera_and_no_depth_nothing():
    wall = models.depth_to_normals(np.full((2, 4, 5, 1), 0.7))
    np.testing.assert_allclose(wall, np.broadcast_to((0, 0, -1), wall.shape), atol=1e-6)
    nothing = models.depth_to_normals(np.zeros((1, 4, 5, 1)))
    np.testing.assert_array_equal(nothing, 0)


def test_the_layer_appends_them_in_full_precision(tmp_path):
    images = np.random.default_rng(0).uniform(0.3, 1, (2, 6, 5, 4)).astype(np.float32)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        inputs = keras.Input((None, None, 4))
        model = keras.Model(inputs, models.Normals(3, focal=0.8)(inputs))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.output_shape == (None, None, None, 7)
    found = model(images)
    np.testing.assert_array_equal(found[..., :4], images)
    expected = models.depth_to_normals(images[..., 3:], focal=0.8)
    np.testing.assert_array_equal(found[..., 4:], expected)
    model.save(tmp_path / "normals.keras")
    again = keras.saving.load_model(tmp_path / "normals.keras")
    np.testing.assert_array_equal(again(images), found)


def test_what_cannot_be_depth_is_refused():
    with pytest.raises(ValueError, match="channel 3 asked for, .* channels 0 to 2"):
        models.Normals(3)(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="focal=0 received, expected a number above"):
        models.Normals(3, focal=0)

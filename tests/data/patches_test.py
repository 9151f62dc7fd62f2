import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import patches


def images(height, width, channels=3, batch=2):
    values = np.arange(batch * height * width * channels)
    return values.reshape(batch, height, width, channels).astype(np.float32)


@pytest.mark.parametrize(
    "height, width, patch, stride",
    [(16, 16, 8, 4), (16, 16, 4, 4), (26, 20, 8, 3), (9, 9, 2, 3), (32, 32, 12, 5)],
)
def test_every_cell_is_its_part_of_the_image(height, width, patch, stride):
    given = images(height, width)
    found = patches.cut(tf.constant(given), patch, stride).numpy()
    rows, columns = patches.grid_of(height, width, patch, stride)
    assert found.shape == (2, rows, columns, patch, patch, 3)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            cell = given[:, top : top + patch, left : left + patch]
            np.testing.assert_array_equal(found[:, row, column], cell)
    # No further row or column has room.
    assert rows * stride + patch > height and columns * stride + patch > width


def test_the_grids_of_the_papers():
    assert patches.grid_of(260, 260, 80, 36) == (6, 6)  # CPC v2.
    assert patches.grid_of(256, 256, 64, 32) == (7, 7)  # CPC v1.


@pytest.mark.parametrize("jit", [False, True])
def test_sides_may_be_unknown_until_the_images_come(jit):
    given = images(11, 14)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def later(x):
        return patches.cut(x, 4, 3)

    @tf.function(jit_compile=True)
    def compiled(x):
        return patches.cut(x, 4, 3)

    found = (compiled if jit else later)(given)
    np.testing.assert_array_equal(found, patches.cut(given, 4, 3))


def test_pixels_of_several_patches_get_the_gradient_of_all():
    given = tf.constant(images(7, 7, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = patches.cut(given, 3, 2)
    counts = tape.gradient(found, given)[0, :, :, 0]
    along = [1, 1, 2, 1, 2, 1, 1]
    np.testing.assert_array_equal(counts, np.outer(along, along))


@pytest.mark.parametrize("patch, stride, apart", [(80, 36, 3), (8, 4, 2), (4, 4, 1)])
def test_patches_so_far_apart_share_no_pixel(patch, stride, apart):
    assert patches.first_apart(patch, stride) == apart
    assert apart * stride >= patch > (apart - 1) * stride


@pytest.mark.parametrize(
    "patch, stride, match",
    [
        (20, 4, "patch=20 received for images of 16 pixels"),
        (8, 0, "stride=0 received"),
        (0, 4, "patch=0 received"),
        (8, 9, "stride=9 received .* leaves no grid: 1 row"),
        (16, 4, "leaves no grid"),
    ],
)
def test_what_makes_no_grid_is_refused(patch, stride, match):
    with pytest.raises(ValueError, match=match):
        patches.grid_of(16, 16, patch, stride)


def test_a_single_row_is_no_grid():
    with pytest.raises(ValueError, match="1 row.s. of 3 patch"):
        patches.grid_of(10, 16, 8, 4)

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from tests.data import plain_views
from tfssl.data.views import image_ops


def smooth(height, width, channels=3, seed=0):
    """A picture without sharp edges, which JPEG keeps well; uint8."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, size=(4, 4, channels))
    factors = (height / 4, width / 4, 1)
    return np.clip(ndimage.zoom(small, factors, order=1), 0, 255).astype(np.uint8)


# Crops --------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["center", "whole", "clamp"])
@pytest.mark.parametrize("height, width", [(50, 60), (1, 90), (40, 1), (300, 100)])
def test_crop_boxes_take_the_first_try_that_fits(fallback, height, width):
    rng = np.random.default_rng(height)
    areas = rng.uniform(0.3, 1.0, size=(50, 3)).astype(np.float32)
    aspects = np.exp(rng.uniform(-0.5, 0.5, size=(50, 3))).astype(np.float32)
    place = rng.uniform(size=(50, 2)).astype(np.float32)
    found = image_ops.crop_boxes(areas, aspects, place, height, width, fallback)
    expected = [
        plain_views.box(a, r, p, height, width, fallback)
        for a, r, p in zip(areas, aspects, place)
    ]
    np.testing.assert_array_equal(found, expected)
    top, left, high, wide = found.numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (high >= 1).all() and (wide >= 1).all()
    assert (top + high <= height).all() and (left + wide <= width).all()


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 0.25), (1.0, 1.0)])
@pytest.mark.parametrize("height, width", [(50, 60), (1, 90), (300, 100), (32, 32)])
def test_crops_by_height_are_those_of_a_loop_over_tries(area, height, width):
    rng = np.random.default_rng(height)
    shares = rng.uniform(size=(200, 3)).astype(np.float32)
    aspects = rng.uniform(0.75, 1.333, size=(200, 3)).astype(np.float32)
    place = rng.uniform(size=(200, 2)).astype(np.float32)
    found = image_ops.crop_boxes(
        shares, aspects, place, height, width, "whole", by_height=area
    )
    expected = [
        plain_views.box_by_height(s, r, p, height, width, area)
        for s, r, p in zip(shares, aspects, place)
    ]
    np.testing.assert_array_equal(found, expected)
    top, left, high, wide = found.numpy().T
    assert (top >= 0).all() and (top + high <= height).all()
    assert (left >= 0).all() and (left + wide <= width).all()


# Resize -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("height, width", [(50, 37), (9, 11), (1, 1), (200, 3)])
def test_resize_follows_the_filter(method, antialias, height, width):
    image = (
        np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    )
    found = image_ops.resize(tf.constant(image), 16, method, antialias).numpy()
    expected = plain_views.resize(image, 16, method, antialias)
    # TensorFlow's bicubic kernel rounds offsets to 1/1024: 0.25 of 255 at most.
    tolerance = 0.5 if method == "bicubic" and not antialias else 2e-3
    np.testing.assert_allclose(found, expected, atol=tolerance)
    batch = image_ops.resize(tf.constant(image)[None], 16, method, antialias)
    np.testing.assert_array_equal(batch[0], found)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_antialiased_resize_is_pils(method):
    image = smooth(90, 70)
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
    expected = Image.fromarray(image).resize((24, 24), filters[method])
    found = image_ops.resize(tf.constant(image), 24, method, antialias=True)
    # PIL rounds to whole values after each direction.
    np.testing.assert_allclose(found, np.asarray(expected), atol=1.5)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 57, 3), (9, 100, 1), (2, 30, 20, 4)])
def test_antialiased_resize_equals_tensorflows_to_the_last_bit(method, shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = image_ops.resize(tf.constant(image), 24, method, antialias=True)
    expected = tf.image.resize(image, [24, 24], method, antialias=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("antialias", [False, True])
def test_a_turned_resize_swaps_rows_and_columns(antialias):
    image = np.random.default_rng(0).integers(0, 256, (40, 57, 3)).astype(np.uint8)
    resize = lambda **options: image_ops.resize(  # noqa: E731
        tf.constant(image), 24, "bilinear", antialias, **options
    ).numpy()
    np.testing.assert_array_equal(resize(turned=True), resize().transpose(1, 0, 2))
    assert np.abs(resize(turned=True) - resize()).max() > 1.0


@pytest.mark.parametrize("limit", [0, 1 << 22])  # Not cast, cast.
def test_bicubic_of_whole_numbers_is_that_of_float32(limit, monkeypatch):
    monkeypatch.setattr(image_ops, "_CAST_UP_TO", limit)
    image = np.random.default_rng(0).integers(0, 256, (40, 57, 3)).astype(np.uint8)
    found = image_ops.resize(tf.constant(image), 24, "bicubic")
    expected = image_ops.resize(tf.constant(image.astype(np.float32)), 24, "bicubic")
    np.testing.assert_array_equal(found, expected)


def test_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="resize='cubic' received, expected one of"):
        image_ops.check_resize("cubic")


# Rotation, shear, translation -----------------------------------------------------


def affine(image, rotation=0.0, shear=0.0, right=0.0, down=0.0):
    angle, slope = np.float32([rotation]), np.float32([shear])
    moved = np.float32([[right, down]])
    out = image_ops.affine(tf.constant(image)[None], angle, slope, moved)
    return out.numpy()[0]


def test_a_quarter_turn_is_counter_clockwise():
    image = np.random.default_rng(2).random((9, 9, 3)).astype(np.float32)
    found = affine(image, rotation=np.pi / 2)
    # A pixel beyond the edge by rounding reads its edge: the inside is exact.
    np.testing.assert_allclose(found, np.rot90(image), atol=1e-5)


def test_translation_moves_right_and_down_and_repeats_the_edge():
    image = np.random.default_rng(3).random((8, 8, 1)).astype(np.float32)
    found = affine(image, right=0.25, down=0.125)
    rows = np.clip(np.arange(8) - 1, 0, 7)
    columns = np.clip(np.arange(8) - 2, 0, 7)
    np.testing.assert_allclose(found, image[rows][:, columns], atol=1e-6)


@pytest.mark.parametrize("rotation, shear", [(0.3, 0.0), (0.0, 0.4), (-0.2, 0.3)])
def test_affine_reads_where_the_docstring_says(rotation, shear):
    size = 21
    image = np.random.default_rng(4).random((size, size, 1)).astype(np.float32)
    found = affine(image, rotation=rotation, shear=shear)[..., 0]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    x_sheared, y_sheared = x - shear * y, y
    cos, sin = np.cos(rotation), np.sin(rotation)
    # With rows downwards, counter-clockwise as seen reads from here.
    x_in = cos * x_sheared - sin * y_sheared + (size - 1) / 2
    y_in = sin * x_sheared + cos * y_sheared + (size - 1) / 2
    expected = ndimage.map_coordinates(
        image[..., 0], [y_in, x_in], order=1, mode="nearest"
    )
    inside = (np.minimum(x_in, y_in) > 0) & (np.maximum(x_in, y_in) < size - 1)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert inside.mean() > 0.6


# Blur ---------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["zero", "edge", "reflect"])
@pytest.mark.parametrize("size", [7, 32, 45, 96])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_filter(border, size, sigma):
    image = np.random.default_rng(size).random((size, size, 3)).astype(np.float32)
    radius = image_ops.blur_radius(2.0, size)
    taps = image_ops.gaussian_taps(tf.constant(sigma), radius)
    expected = plain_views.blur(image, sigma, border, radius)
    found = image_ops.blur(tf.constant(image), taps, border)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    turned = tf.constant(image.transpose(1, 0, 2))
    found = image_ops.blur(turned, taps, border, turned=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    batch = image_ops.blur_batch(tf.constant(image)[None], taps[None], border)
    np.testing.assert_allclose(batch[0], expected, atol=1e-5)


def test_kernel_holds_the_gaussian():
    assert image_ops.blur_radius(2.0, 224) == 8
    assert image_ops.blur_radius(2.0, 5) == 4
    taps = image_ops.gaussian_taps(tf.constant([0.0, 2.0]), 8).numpy()
    np.testing.assert_allclose(taps.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(taps[0], np.eye(17)[8])  # No blur.
    # 23 taps, as the SimCLR code has at 224 pixels, add less than 1e-4.
    wide = np.exp(-0.5 * (np.arange(-11, 12) / 2.0) ** 2)
    assert np.abs(wide / wide.sum() - np.pad(taps[1], 3)).max() < 1e-4

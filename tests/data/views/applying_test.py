import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tests.data import plain_views
from tfssl import data
from tfssl.data import views
from tfssl.data.views import applying, recipes

LUMA = np.array([0.299, 0.587, 0.114])


def noise(height=40, width=30, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels)).astype(np.uint8)


def plain_view(**changes):
    """The whole image, resized to 16: nothing random, unless asked for."""
    settings = dict(size=16, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0)
    return views.View(**settings | {"crop_fallback": "whole"} | changes)


def numbers_of(view, **fixed):
    """Numbers that do nothing, but for those given: `(1, numbers)`."""
    neutral = dict(
        areas=1.0, aspects=1.0, place=0.0, flip=0.0, rotation=0.0, shear=0.0,
        translation=0.0, jitter=0.0, brightness=1.0, contrast=1.0, saturation=1.0,
        hue=0.0, order=np.arange(4) / 4, gray=0.0, sigma=0.0, solarize=0.0,
    )  # fmt: skip
    drawn = views.sample([view], batch=1, channels=3, seed=0, step=0)
    names = views.split(drawn, [view])
    parts = []
    for name, part in names.items():
        value = np.asarray({**neutral, **fixed}[name], np.float32)
        shape = part.shape if part.shape.rank == 3 else [1, 1, 1]
        parts.append(np.broadcast_to(value, shape))
    return np.concatenate(parts, -1)[0]


def applied(image, view, **fixed):
    (out,) = views.apply(numbers_of(view, **fixed), image, [view])
    return out.numpy().astype(np.float64)


def test_crop_and_resize():
    # Area 0.3 of 40 x 30 = 360 pixels, aspect 0.9: 18 wide, 20 high. Place (0.5,
    # 0.25): row floor(0.5 * 21) = 10, column floor(0.25 * 13) = 3.
    image = noise()
    found = applied(
        image, plain_view(), areas=0.3, aspects=0.9, place=np.array([0.5, 0.25])
    )
    expected = plain_views.resize(image[10:30, 3:21] / 255.0, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flip():
    image, view = noise(), plain_view(flip=0.5)
    found = applied(image, view, flip=1.0)
    np.testing.assert_allclose(found, applied(image, view)[:, ::-1], atol=1e-6)


def colours(image):
    return plain_views.resize(image / 255.0, 16)


def test_a_clipped_resize_is_cut_before_the_first_step():
    # Hard edges: the cubic overshoots by up to a seventh on both sides.
    image = np.repeat(np.repeat(255 * (np.indices((10, 8)).sum(0) % 2), 4, 0), 4, 1)
    image = np.repeat(image[..., None], 3, -1).astype(np.uint8)
    found = {}
    for clips in (False, True):
        view = plain_view(size=24, resize="bicubic", clip_resized=clips, contrast=0.8)
        view = view.scaled(jitter=1.0)
        found[clips] = applied(image, view, jitter=1.0, contrast=0.5)
        x = plain_views.resize(image / 255.0, 24, "bicubic")
        assert x.min() < -0.05 and x.max() > 1.05
        x = np.clip(x, 0, 1) if clips else x
        expected = np.clip(x.mean((0, 1)) + 0.5 * (x - x.mean((0, 1))), 0, 1)
        # TensorFlow's kernel rounds offsets to 1/1024.
        np.testing.assert_allclose(found[clips], expected, atol=2e-3)
    assert np.abs(found[True] - found[False]).max() > 0.02


_STRENGTHS = dict(jitter=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)


def jitter(**changes):
    return plain_view(**_STRENGTHS | changes)


@pytest.mark.parametrize("factor", [0.3, 1.7])
def test_brightness(factor):
    found = applied(noise(), jitter(), jitter=1.0, brightness=factor)
    expected = np.clip(colours(noise()) * factor, 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("delta", [-0.3, 0.3])
def test_added_brightness(delta):
    view = jitter(brightness_mode="add")
    found = applied(noise(), view, jitter=1.0, brightness=delta)
    expected = np.clip(colours(noise()) + delta, 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.3, 1.7])
@pytest.mark.parametrize("about", ["channel", "gray"])
def test_contrast(factor, about):
    found = applied(noise(), jitter(contrast_mean=about), jitter=1.0, contrast=factor)
    x = colours(noise())
    mean = x.mean((0, 1)) if about == "channel" else (x @ LUMA).mean()
    expected = np.clip(mean + factor * (x - mean), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.3, 1.7])
def test_saturation(factor):
    found = applied(noise(), jitter(), jitter=1.0, saturation=factor)
    x = colours(noise())
    gray = (x @ LUMA)[..., None]
    expected = np.clip(gray + factor * (x - gray), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_order_of_the_steps_matters_and_is_that_of_the_keys():
    x = colours(noise())
    brighter = np.clip(x * 1.7, 0, 1)
    first_brightness = np.clip(
        brighter.mean((0, 1)) + 1.7 * (brighter - brighter.mean((0, 1))), 0, 1
    )
    stronger = np.clip(x.mean((0, 1)) + 1.7 * (x - x.mean((0, 1))), 0, 1)
    first_contrast = np.clip(stronger * 1.7, 0, 1)
    both = dict(jitter=1.0, brightness=1.7, contrast=1.7)
    for keys, expected in (
        ([0.1, 0.2, 0.3, 0.4], first_brightness),
        ([0.6, 0.5, 0.3, 0.4], first_contrast),
    ):
        found = applied(noise(), jitter(), order=np.array(keys), **both)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(first_brightness - first_contrast).max() > 0.01


def test_gray():
    found = applied(noise(), plain_view(gray=0.5), gray=1.0)
    expected = np.repeat((colours(noise()) @ LUMA)[..., None], 3, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("border, mode", [("zero", "constant"), ("edge", "nearest")])
def test_blur(border, mode):
    view = plain_view(blur=0.5, blur_border=border)
    found = applied(noise(), view, sigma=1.3)
    expected = colours(noise())
    for axis in (0, 1):
        expected = ndimage.gaussian_filter1d(
            expected, 1.3, axis=axis, mode=mode, radius=8
        )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_solarize():
    found = applied(noise(), plain_view(solarize=0.5), solarize=1.0)
    x = colours(noise())
    expected = np.where(x < 0.5, x, 1 - x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_solarize_of_a_batch_inverts_where_the_coin_says_so(threshold):
    view = plain_view(solarize=0.5, solarize_threshold=threshold)
    images = np.random.default_rng(0).random((2, 6, 6, 3)).astype(np.float32)
    top = tf.reshape([1.0, np.inf], [2, 1, 1, 1])
    found = applying.solarized(tf.constant(images), view, top)
    inverted = np.where(images[0] < threshold, images[0], 1 - images[0])
    np.testing.assert_array_equal(found, [inverted, images[1]])


def test_normalization():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    found = applied(noise(), plain_view(mean=mean, std=std))
    np.testing.assert_allclose(found, (colours(noise()) - mean) / std, atol=5e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_any_mean_that_a_view_may_have(channels, jitter):
    """One number, three of RGB or none, also in one recipe."""
    plain = plain_view(jitter=jitter, brightness=0.4, contrast=0.4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    recipe = [plain, plain.scaled(mean=mean, std=std), plain.scaled(mean=0.1, std=0.5)]
    image = noise(channels=channels)
    numbers = views.sample(recipe, batch=1, channels=channels, seed=0, step=0)
    found = views.apply(numbers[0], image, recipe)
    bare = views.apply(numbers[0], image, [plain] * 3)
    if channels != 3:
        mean, std = 0.5, 0.25
    expected = bare[0], (bare[1] - mean) / std, (bare[2] - 0.1) / 0.5
    for view, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(view, wanted, atol=5e-5)
    with pytest.raises(ValueError, match=r"mean=\(0.4, 0.5\) received for images of 4"):
        wrong = [plain.scaled(mean=(0.4, 0.5), std=0.2)]
        views.apply(numbers[0, :1], noise(channels=4), wrong)


def test_bicubic_overshoot_is_clipped():
    board = np.kron(np.indices((5, 5)).sum(0) % 2, np.ones((4, 4)))[..., None] * 255
    found = applied(board.astype(np.uint8), plain_view(resize="bicubic", size=37))
    assert found.min() == 0.0 and found.max() == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_any_depth_and_number_of_channels(dtype, channels):
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    image = (noise(channels=channels) / 255.0 * white).astype(dtype)
    recipe = recipes.SIMCLR.scaled(16)
    numbers = views.sample(recipe, batch=2, channels=channels, seed=0, step=0)
    out = views.apply(numbers[0], image, recipe)
    exact = views.apply(numbers[0], np.float32(image / white), recipe)
    for view, expected in zip(out, exact):
        assert view.shape == (16, 16, channels) and view.dtype == tf.float32
        assert float(tf.reduce_min(view)) >= 0 and float(tf.reduce_max(view)) <= 1
        np.testing.assert_allclose(view, expected, atol=2e-5)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 400), (400, 1), (5, 7)])
def test_images_smaller_than_a_view(height, width):
    recipe = recipes.SIMCLR.scaled(16)
    numbers = views.sample(recipe, batch=8, channels=3, seed=0, step=0)
    for row in numbers:
        for view in views.apply(row, noise(height, width), recipe):
            assert np.isfinite(view).all()


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
        (np.zeros((5, 5), np.uint8), r"expected \(height, width, channels\)"),
        (np.zeros((5, 5, 3), np.int32), "dtype int32 was given; expected uint8"),
    ],
)
def test_bad_images(image, message):
    view = plain_view()
    with pytest.raises(ValueError, match=message):
        views.apply(numbers_of(view), image, [view])


def test_graph_of_unknown_image_size_equals_eager():
    recipe = recipes.SIMCLR.scaled(16)
    numbers = views.sample(recipe, batch=1, channels=3, seed=0, step=0)[0]
    spec = [tf.TensorSpec(numbers.shape), tf.TensorSpec([None, None, 3], tf.uint8)]
    graph = tf.function(lambda n, x: views.apply(n, x, recipe), input_signature=spec)
    for a, b in zip(graph(numbers, noise()), views.apply(numbers, noise(), recipe)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_blur_of_a_small_view_beside_a_large_one_keeps_the_brightness():
    """Its kernel is cut out of the recipe's widest."""
    blurred = dict(blur=1.0, blur_sigma=(2.0, 2.0), blur_border="edge")
    blurred |= dict(jitter=0.0, flip=0.0)
    recipe = [views.View(size=size, **blurred) for size in (32, 6, 4)]
    white = data.open_source(np.full((2, 32, 32, 3), 255, np.uint8))
    (batch,) = data.multiview(white, recipe, batch_size=2).take(1)
    for view in batch["views"].values():
        np.testing.assert_allclose(view, 1.0, atol=1e-5)

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, stats

from tfssl.data import recipes, views

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


def slow_bilinear(image, size):
    """Reads each output pixel by hand, at half-pixel centres, clamped to the edge."""
    height, width, channels = image.shape
    out = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            y = (i + 0.5) * height / size - 0.5
            x = (j + 0.5) * width / size - 0.5
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            for a, b, weight in (
                (y0, x0, (1 - y + y0) * (1 - x + x0)),
                (y0, x0 + 1, (1 - y + y0) * (x - x0)),
                (y0 + 1, x0, (y - y0) * (1 - x + x0)),
                (y0 + 1, x0 + 1, (y - y0) * (x - x0)),
            ):
                a, b = min(max(a, 0), height - 1), min(max(b, 0), width - 1)
                out[i, j] += weight * image[a, b]
    return out


# Apply, step by step --------------------------------------------------------------


def test_crop_and_resize():
    # Area 0.3 of 40 x 30 = 360 pixels, aspect 0.9: 18 wide, 20 high. Place (0.5,
    # 0.25): row floor(0.5 * 21) = 10, column floor(0.25 * 13) = 3.
    image = noise()
    found = applied(
        image, plain_view(), areas=0.3, aspects=0.9, place=np.array([0.5, 0.25])
    )
    expected = slow_bilinear(image[10:30, 3:21] / 255.0, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flip():
    image, view = noise(), plain_view(flip=0.5)
    found = applied(image, view, flip=1.0)
    np.testing.assert_allclose(found, applied(image, view)[:, ::-1], atol=1e-6)


def colours(image):
    return slow_bilinear(image / 255.0, 16)


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


def test_normalization():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    found = applied(noise(), plain_view(mean=mean, std=std))
    np.testing.assert_allclose(found, (colours(noise()) - mean) / std, atol=5e-5)


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


def test_steps_that_need_rgb_are_named():
    assert views.skipped_steps(recipes.SIMCLR, 3) == ()
    assert views.skipped_steps(recipes.SIMCLR, 4) == ("saturation", "hue", "gray")
    assert views.skipped_steps(recipes.SIMCLR_DIGITS, 1) == ()


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


def test_recipes_without_views_are_refused():
    with pytest.raises(ValueError, match="no views; give at least one View"):
        views.sample([], batch=1, channels=3, seed=0, step=0)
    with pytest.raises(ValueError, match="must be a tfssl.data.View"):
        views.sample([3], batch=1, channels=3, seed=0, step=0)


# Sample, against its distribution ---------------------------------------------------

_MANY = 4000


def drawn(recipe, batch=_MANY, seed=1, step=0):
    numbers = views.sample(recipe, batch=batch, channels=3, seed=seed, step=step)
    found = views.split(numbers, recipe)
    return {name: value.numpy() for name, value in found.items()}


def is_uniform(values, low, high):
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_distributions_of_simclr():
    n = drawn(recipes.SIMCLR)
    for view in (0, 1):
        for attempt in (0, 9):
            assert is_uniform(n["areas"][:, view, attempt], 0.08, 1.0)
            assert is_uniform(n["aspects"][:, view, attempt], 3 / 4, 4 / 3)
        for axis in (0, 1):
            assert is_uniform(n["place"][:, view, axis], 0.0, 1.0)
        for name in ("brightness", "contrast", "saturation"):
            assert is_uniform(n[name][:, view], 0.2, 1.8), name
        assert is_uniform(n["hue"][:, view], -0.2, 0.2)
        sigma = n["sigma"][:, view]
        assert is_uniform(sigma[sigma > 0], 0.1, 2.0)
        # Coins: 5 standard errors of 4,000 throws are at most 0.04.
        for coin, expected in (("flip", 0.5), ("jitter", 0.8), ("gray", 0.2)):
            assert set(n[coin][:, view]) == {0.0, 1.0}
            assert abs(n[coin][:, view].mean() - expected) < 0.04, coin
        assert abs((sigma > 0).mean() - 0.5) < 0.04
        assert not n["solarize"][:, view].any()
        orders = np.argsort(n["order"][:, view], -1)
        counts = np.unique(orders, axis=0, return_counts=True)[1]
        assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3


def test_distributions_of_byol():
    n = drawn(recipes.BYOL)
    assert n["areas"].shape == (_MANY, 2, 1)  # One try.
    assert is_uniform(np.log(n["aspects"][:, 0, 0]), np.log(3 / 4), np.log(4 / 3))
    assert is_uniform(n["brightness"][:, 0], -0.4, 0.4)  # Added.
    assert is_uniform(n["contrast"][:, 1], 0.6, 1.4)
    assert is_uniform(n["saturation"][:, 1], 0.8, 1.2)
    assert is_uniform(n["hue"][:, 0], -0.1, 0.1)
    assert (n["sigma"][:, 0] > 0).all()
    assert abs((n["sigma"][:, 1] > 0).mean() - 0.1) < 0.03
    assert not n["solarize"][:, 0].any()
    assert abs(n["solarize"][:, 1].mean() - 0.2) < 0.04


def test_distributions_of_geometry():
    view = views.View(rotation=0.3, shear=0.1, translation=0.2, random_order=False)
    n = drawn([view])
    assert is_uniform(n["rotation"][:, 0], -0.3, 0.3)
    assert is_uniform(n["shear"][:, 0], -0.1, 0.1)
    assert is_uniform(n["translation"][:, 0, 1], -0.2, 0.2)
    assert (np.argsort(n["order"][:, 0], -1) == np.arange(4)).all()


def test_fields_are_independent():
    n = drawn(recipes.SIMCLR)
    columns = [n[name] for name in ("flip", "brightness", "contrast", "hue", "sigma")]
    columns += [n["areas"][..., 0], n["areas"][..., 1], n["place"][..., 0]]
    table = np.concatenate(columns, 1)  # Both views.
    correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 0.08  # 5 standard errors.


def test_draws_depend_on_seed_and_step_only():
    def draw(**changes):
        settings = {"batch": 8, "channels": 3, "seed": 1, "step": 2} | changes
        return views.sample(recipes.SIMCLR, **settings)

    first = draw().numpy()
    np.testing.assert_array_equal(first, draw(channels=1))
    tensors = dict(seed=tf.constant(1, tf.int64), step=tf.constant(2, tf.int64))
    np.testing.assert_array_equal(first, draw(**tensors))
    np.testing.assert_array_equal(first, tf.function(lambda: draw(**tensors))())
    for other in (dict(seed=2), dict(step=3), dict(seed=2, step=1)):
        assert (first[..., :20] != draw(**other)[..., :20]).numpy().mean() > 0.99
    tf.random.set_seed(7)
    np.testing.assert_array_equal(first, draw())


def test_crops_of_the_drawn_numbers_have_the_drawn_areas():
    # Square images: a first try fits unless it is too long, which is rare.
    packed = views.pack(
        views.sample(recipes.MOCO_V1, batch=_MANY, channels=3, seed=0, step=0),
        recipes.MOCO_V1,
        3,
    )
    boxes = views.boxes(packed, recipes.MOCO_V1, 500, 500).numpy()[:, 0]
    area = boxes[:, 2] * boxes[:, 3] / 500**2
    # Small crops always fit, so that their areas keep the drawn distribution.
    small = area[area < 0.7]
    assert is_uniform(small, 0.2, 0.7)
    assert area.max() <= 1.0 and area.min() > 0.19


def test_graph_of_unknown_image_size_equals_eager():
    recipe = recipes.SIMCLR.scaled(16)
    numbers = views.sample(recipe, batch=1, channels=3, seed=0, step=0)[0]
    spec = [tf.TensorSpec(numbers.shape), tf.TensorSpec([None, None, 3], tf.uint8)]
    graph = tf.function(lambda n, x: views.apply(n, x, recipe), input_signature=spec)
    for a, b in zip(graph(numbers, noise()), views.apply(numbers, noise(), recipe)):
        np.testing.assert_allclose(a, b, atol=1e-6)

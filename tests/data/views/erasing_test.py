import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfssl.data import views
from tfssl.data.views import batched, device, erasing, packing
from tfssl.data.views.specs import IMAGENET_MEAN, IMAGENET_STD, Recipe

SIZE = 32
PLAIN = views.View(size=SIZE, area=(1.0, 1.0), flip=0.0, jitter=0.0, erase=1.0)
NORMALISED = PLAIN.scaled(mean=IMAGENET_MEAN, std=IMAGENET_STD)


def numbers_of(view, batch=1, step=0):
    return views.sample([view], batch=batch, channels=3, seed=0, step=step)


def chosen(view, *, coin=0.0, area=0.5, aspect=0.5, row=0.5, column=0.5, seed=0.25):
    """A row of `sample` whose rectangle is given by uniform numbers."""
    numbers = numbers_of(view).numpy()
    numbers[..., -erasing.WIDTH :] = coin, area, aspect, row, column, seed
    return numbers[0]


def picture(channels=3, seed=0, batch=None):
    shape = (SIZE, SIZE, channels) if batch is None else (batch, SIZE, SIZE, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def erased(view, image, **where):
    """Which pixels a rectangle changed, and the view."""
    (out,) = views.apply(chosen(view, **where), image, [view])
    (whole,) = views.apply(chosen(view, coin=1.0), image, [view])
    return (out.numpy() != whole.numpy()).any(-1), out.numpy()


@pytest.mark.parametrize("area, aspect", [(0.0, 0.5), (1.0, 0.5), (0.5, 0.1), (0.9, 1)])
@pytest.mark.parametrize("row, column", [(0.0, 0.999), (0.999, 0.0), (0.3, 0.7)])
def test_the_rectangle_is_the_papers(area, aspect, row, column):
    """sqrt(area * aspect) rows, sqrt(area / aspect) columns, anywhere inside."""
    changed, _ = erased(
        PLAIN, picture(), area=area, aspect=aspect, row=row, column=column
    )
    part = 0.02 + area * (1 / 3 - 0.02)
    ratio = 0.3 ** (1 - 2 * aspect)
    high, wide = (
        min(SIZE, round(SIZE * np.sqrt(part * r))) for r in (ratio, 1 / ratio)
    )
    top, left = int(row * (SIZE - high + 1)), int(column * (SIZE - wide + 1))
    expected = np.zeros((SIZE, SIZE), bool)
    expected[top : top + high, left : left + wide] = True
    np.testing.assert_array_equal(changed, expected)


def test_areas_and_coins_are_as_often_as_they_should():
    view = PLAIN.scaled(erase=0.25)
    u = numbers_of(view, batch=4000)[..., -erasing.WIDTH :]
    top, bottom, left, right, _ = np.moveaxis(erasing.pack(u, [view]).numpy(), -1, 0)
    hit = bottom > top
    assert stats.binomtest(int(hit.sum()), len(hit), 0.25).pvalue > 1e-4
    areas = ((bottom - top) * (right - left))[hit] / SIZE**2
    assert areas.min() > 0.01 and areas.max() < 0.36
    assert areas.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    for ends in (top, bottom, left, right):
        assert 0 <= ends.min() and ends.max() <= SIZE


@pytest.mark.parametrize("view", [PLAIN, NORMALISED])
def test_noise_has_the_colours_of_imagenet(view):
    changed, out = erased(view, picture(), area=1.0)
    noise = out[changed]
    if view.mean is not None:  # timm's: standard normal.
        mean, std = np.zeros(3), np.ones(3)
    else:
        mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    for values, middle, spread in zip(noise.T, mean, std):
        assert stats.kstest((values - middle) / spread, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.2
    _, other = erased(view, picture(), area=1.0, seed=0.2500003)
    assert np.abs(other[changed] - noise).mean() > 0.1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("place", ["chunks", "device", "device, one by one"])
def test_it_is_the_same_in_every_place(channels, place):
    recipe = Recipe([PLAIN.scaled(erase=0.5, blur=0.5, antialias=True)])
    images = picture(channels, batch=12)
    numbers = numbers_of(recipe[0], batch=12)
    expected = [views.apply(row, x, recipe)[0] for row, x in zip(numbers, images)]
    packed = packing.pack(numbers, recipe, channels)
    resized = batched.geometry(tf.constant(images), packed, recipe)
    if place == "chunks":
        (found,) = batched.finish(resized, packed, recipe, 255.0)
    else:
        if place == "device":
            made = device.begin_batch(packed, resized, recipe, tf.uint8)
        else:
            one = [
                device.begin(row, x, recipe, packing.boxes(row, recipe, SIZE, SIZE))
                for row, x in zip(packed, tf.constant(images))
            ]
            made = tf.nest.map_structure(lambda *rows: tf.stack(rows), *one)
        batch = {device.NUMBERS: made[0], "views": {"view_0": made[1][0]}}
        finish = tf.function(device.finishing(recipe), jit_compile=True)
        found = finish(batch)["views"]["view_0"]
    np.testing.assert_allclose(found, tf.stack(expected), atol=1e-5)


def test_a_recipe_without_it_draws_what_it_drew_before():
    view = PLAIN.scaled(erase=0.0)
    assert numbers_of(view).shape[-1] + erasing.WIDTH == numbers_of(PLAIN).shape[-1]
    assert packing.count_of_tones([PLAIN], 3) - packing.count_of_tones([view], 3) == 5


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="erase=1.5 received"):
        PLAIN.scaled(erase=1.5)

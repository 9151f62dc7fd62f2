import colorsys

import numpy as np
import pytest
import tensorflow as tf

from tests.data import plain_views
from tfssl.data import views
from tfssl.data.views import color, recipes

LUMA = np.array([0.299, 0.587, 0.114])


def picture(channels=3, size=12, seed=0):
    return np.random.default_rng(seed).random((size, size, channels))


def draw(recipe, batch, channels=3):
    numbers = views.sample(recipe, batch=batch, channels=channels, seed=3, step=1)
    return views.split(numbers, recipe)


@tf.function
def run(image, maps):
    runs, moves = (tf.unstack(maps[name] > 0.5) for name in ("runs", "moves"))
    return color.run(image, maps, runs, moves)


def of_image(maps, i):
    return {name: value[i, 0] for name, value in maps.items()}


VIEWS = {
    "simclr": recipes.SIMCLR[0].scaled(12),
    "byol": recipes.BYOL[0].scaled(12, mean=None, std=None),
    "moco": recipes.MOCO_V2[0].scaled(12, mean=None, std=None),
    "bilinear": recipes.SIMCLR[0].scaled(12, resize="bilinear"),
    "fixed order": recipes.SIMCLR[0].scaled(12, random_order=False, jitter=1.0),
    "two steps": recipes.SIMCLR[0].scaled(12, brightness=0.0, hue=0.0),
    "gray first": recipes.MOCO_V1[0].scaled(12, gray=0.5, mean=None, std=None),
    "gray only": recipes.SIMCLR[0].scaled(12, jitter=0.0, gray=0.5),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", VIEWS)
def test_groups_equal_the_steps_one_by_one(name, channels):
    view = VIEWS[name]
    recipe = recipes.Recipe([view], name)
    n = draw(recipe, 40)
    maps = color.groups(n, recipe, channels, white=255.0)
    plain = color.groups(n, recipe, channels, white=1.0)
    widths = color.widths(recipe, channels)
    assert {k: x.shape for k, x in maps.items()} == {
        name: (40, 1, width) for name, width in widths.items()
    }
    image = picture(channels) * 1.2 - 0.1  # A resize may overshoot, if bicubic.
    if not color.overshoots(view):
        image = np.clip(image, 0, 1)
    pixels = tf.constant([np.float32(image.reshape(-1, channels))] * 40)
    batch = color.run_batch(pixels, {name: x[:, 0] for name, x in plain.items()})
    groups_used = set()
    for i in range(40):
        numbers = {key: value[i, 0].numpy() for key, value in n.items()}
        expected = plain_views.jitter(image, numbers, view)
        found = run(tf.constant(np.float32(image * 255)), of_image(maps, i))
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(
            np.reshape(batch[i], image.shape), expected, atol=2e-5
        )
        groups_used.add(1 + int(np.sum(maps["runs"][i, 0])))
    if name == "simclr" and channels == 3:
        assert groups_used >= {1, 2, 3}  # The test has met short and long chains.


def test_a_step_is_missed_when_it_is_left_out():
    # The comparison above can fail: another contrast is far outside its tolerance.
    view = VIEWS["simclr"]
    recipe = recipes.Recipe([view], "x")
    n = draw(recipe, 8)
    maps = color.groups(n, recipe, 3, 1.0)
    other = color.groups({**n, "contrast": n["contrast"] * 1.1}, recipe, 3, 1.0)
    i = int(np.argmax(n["jitter"][:, 0]))
    image = tf.constant(np.float32(picture()))
    found = [run(image, of_image(x, i)) for x in (maps, other)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("blur_border, folds", [("edge", True), ("zero", False)])
def test_normalization_goes_into_the_last_map_where_it_may(blur_border, folds):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    view = VIEWS["moco"].scaled(mean=mean, std=std, blur_border=blur_border)
    assert color.folds_normalization(view, 3) == folds
    recipe = recipes.Recipe([view], "x")
    n = draw(recipe, 10)
    image = picture()
    maps = color.groups(n, recipe, 3, 1.0)
    for i in range(10):
        numbers = {key: value[i, 0].numpy() for key, value in n.items()}
        expected = plain_views.jitter(image, numbers, view)
        if folds:
            expected = (expected - mean) / std
        found = run(tf.constant(np.float32(image)), of_image(maps, i))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_solarized_views_are_normalized_afterwards():
    assert not color.folds_normalization(recipes.BYOL[1], 3)
    assert not color.folds_normalization(recipes.SIMCLR[0], 3)  # It has no mean.


def test_gray_is_a_fixed_point_of_hue_and_saturation():
    gray = np.full((4, 3), 0.3, np.float32)
    for matrix in (
        color.hue_matrix(tf.constant(0.17)),
        color.saturation_matrix(tf.constant(1.7)),
    ):
        np.testing.assert_allclose(gray @ np.transpose(matrix), gray, atol=1e-6)


def test_hue_keeps_luma_and_goes_round():
    image = picture().reshape(-1, 3)
    turned = image @ np.transpose(color.hue_matrix(tf.constant(0.2)))
    np.testing.assert_allclose(turned @ LUMA, image @ LUMA, atol=1e-5)
    whole = color.hue_matrix(tf.constant(1.0))
    np.testing.assert_allclose(whole, np.eye(3), atol=1e-5)


def test_hue_turns_the_way_of_hsv():
    red = np.array([0.9, 0.2, 0.2])
    for delta in (0.1, -0.1, 0.2, -0.2):
        turned = color.hue_matrix(tf.constant(delta)).numpy() @ red
        before, after = colorsys.rgb_to_hsv(*red)[0], colorsys.rgb_to_hsv(*turned)[0]
        # Angles of the two colour circles differ, but never by the direction.
        moved = (after - before + 0.5) % 1 - 0.5
        assert np.sign(moved) == np.sign(delta)
        assert abs(moved - delta) < 0.08


def changes(image, matrix, hsv):
    """Mean absolute changes: by the matrix, by the HSV form, and between the two."""
    mine = np.clip(image @ np.transpose(matrix), 0, 1)
    pairs = ((mine, image), (hsv, image), (mine, hsv))
    return [np.abs(a - b).mean() for a, b in pairs]


# Mean absolute changes of values in [0, 1]: ours, that of `tf.image` in HSV, and the
# difference between them, on colours of moderate saturation.
@pytest.mark.parametrize(
    "delta, ours, theirs, apart",
    [
        (0.05, 0.034, 0.025, 0.027),
        (0.1, 0.068, 0.051, 0.050),
        (0.2, 0.130, 0.101, 0.078),
    ],
)
def test_difference_of_hue_to_hsv_is_as_stated(delta, ours, theirs, apart):
    image = np.float32(0.25 + 0.5 * picture(size=64))
    hsv = tf.image.adjust_hue(image, delta).numpy()
    found = changes(image, color.hue_matrix(tf.constant(delta)), hsv)
    np.testing.assert_allclose(found, [ours, theirs, apart], atol=1e-3)


@pytest.mark.parametrize(
    "factor, ours, theirs, apart",
    [
        (0.2, 0.082, 0.101, 0.101),
        (0.6, 0.041, 0.051, 0.051),
        (1.4, 0.041, 0.051, 0.051),
    ],
)
def test_difference_of_saturation_to_hsv_is_as_stated(factor, ours, theirs, apart):
    """`tf.image` keeps the largest channel, the blend with grey keeps luma."""
    image = np.float32(0.25 + 0.5 * picture(size=64))
    hsv = tf.image.adjust_saturation(image, factor).numpy()
    found = changes(image, color.saturation_matrix(tf.constant(factor)), hsv)
    np.testing.assert_allclose(found, [ours, theirs, apart], atol=1e-3)

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from tests.data import plain_views
from tfssl.data import color, recipes, views

LUMA = np.array([0.299, 0.587, 0.114])


def picture(channels=3, size=12, seed=0):
    return np.random.default_rng(seed).random((size, size, channels))


def draw(recipe, batch, channels=3):
    numbers = views.sample(recipe, batch=batch, channels=channels, seed=3, step=1)
    return views.split(numbers, recipe)


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
    limit = color.count(recipe, channels)
    packed = color.groups(n, recipe, channels, white=255.0)
    plain = color.groups(n, recipe, channels, white=1.0)
    assert packed.shape == (40, 1, color.width(recipe, channels))
    image = picture(channels) * 1.2 - 0.1  # A resize may overshoot, if bicubic.
    if view.resize != "bicubic":
        image = np.clip(image, 0, 1)
    run = tf.function(lambda x, p: color.run(x, p, limit))
    planes = np.moveaxis(image.reshape(-1, channels), -1, 0).astype(np.float32)
    batch = color.run_batch(tf.constant([planes] * 40), plain[:, 0], limit)
    groups_used = set()
    for i in range(40):
        numbers = {key: value[i, 0].numpy() for key, value in n.items()}
        expected = plain_views.jitter(image, numbers, view)
        found = run(np.float32(image * 255), packed[i, 0])
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(
            np.reshape(batch[i], image.shape), expected, atol=2e-5
        )
        groups_used.add(int(packed[i, 0, 0]))
    if name == "simclr" and channels == 3:
        assert groups_used >= {1, 2, 3}  # The test has met short and long chains.


def test_a_step_is_missed_when_it_is_left_out():
    # The comparison above can fail: another contrast is far outside its tolerance.
    view = VIEWS["simclr"]
    recipe = recipes.Recipe([view], "x")
    n = draw(recipe, 8)
    packed = color.groups(n, recipe, 3, 1.0)
    other = color.groups({**n, "contrast": n["contrast"] * 1.1}, recipe, 3, 1.0)
    i = int(np.argmax(n["jitter"][:, 0]))
    limit = color.count(recipe, 3)
    image = np.float32(picture())
    found = [color.run(image, p[i, 0], limit) for p in (packed, other)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("blur_border, folds", [("edge", True), ("zero", False)])
def test_normalization_goes_into_the_last_map_where_it_may(blur_border, folds):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    view = VIEWS["moco"].scaled(mean=mean, std=std, blur_border=blur_border)
    assert color.folds_normalization(view, 3) == folds
    recipe = recipes.Recipe([view], "x")
    n = draw(recipe, 10)
    image = picture()
    packed = color.groups(n, recipe, 3, 1.0)
    for i in range(10):
        numbers = {key: value[i, 0].numpy() for key, value in n.items()}
        expected = plain_views.jitter(image, numbers, view)
        if folds:
            expected = (expected - mean) / std
        limit = color.count(recipe, 3)
        found = color.run(np.float32(image), packed[i, 0], limit)
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

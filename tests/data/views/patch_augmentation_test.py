import numpy as np
import pytest
import tensorflow as tf

from tfssl.data.views import patch_augmentation as lib
from tfssl.data.views.patch_augmentation import PatchAugmentation

STILL = dict(
    primitives=0,
    elastic=0.0,
    shear=0.0,
    histogram=0.0,
    jitter=0.0,
    gray=0.0,
    color_drop=0.0,
)


def patches(count=6, side=9, channels=3):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, side, side, channels)).astype(np.float32)


def augmented(x, augmentation, *, seed=3, first=0, jit=False):
    def run(x, keys):
        numbers = lib.draw(augmentation, seed=seed, keys=keys, channels=x.shape[-1])
        return lib.augment(x, numbers, augmentation)

    keys = tf.range(first, first + len(x), dtype=tf.int64)
    return tf.function(run, jit_compile=jit)(tf.constant(x), keys).numpy()


def only(name, sign):
    """Numbers that draw this primitive first, with this sign, for any patch."""
    place = (lib.PRIMITIVES.index(name) + 0.5) / len(lib.PRIMITIVES)
    return [place, 0.75 if sign > 0 else 0.25]


def primitive(x, name, sign=1, strength=0.5):
    augmentation = PatchAugmentation(
        **STILL | {"primitives": 1, "primitive_strength": strength}
    )
    keys = tf.range(len(x), dtype=tf.int64)
    numbers = lib.draw(augmentation, seed=0, keys=keys, channels=x.shape[-1])
    numbers["primitives"] = tf.constant([only(name, sign)] * len(x), tf.float32)
    return lib.augment(tf.constant(x), numbers, augmentation).numpy()


def test_nothing_chosen_changes_nothing():
    x = patches()
    np.testing.assert_array_equal(augmented(x, PatchAugmentation(**STILL)), x)
    # Primitives of no strength, that move pixels or not, are not seen either.
    some = PatchAugmentation(**STILL | {"elastic": 1.0, "elastic_strength": 0.0})
    np.testing.assert_allclose(augmented(x, some), x, atol=1e-6)


@pytest.mark.parametrize(
    "channels, crop",
    [
        (1, None),
        (3, 6),
        (4, None),
        pytest.param(1, 6, marks=pytest.mark.slow),
        pytest.param(3, None, marks=pytest.mark.slow),
        pytest.param(4, 6, marks=pytest.mark.slow),
    ],
)
def test_every_patch_by_its_own_numbers_and_the_same_everywhere(channels, crop):
    x = patches(40, channels=channels)
    everything = PatchAugmentation(crop=crop)
    found = augmented(x, everything)
    side = crop or 9
    assert found.shape == (40, side, side, channels)
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(
        augmented(x[10:15], everything, first=10), found[10:15], atol=1e-6
    )
    np.testing.assert_allclose(augmented(x, everything, jit=True), found, atol=1e-4)
    alike = np.repeat(x[:1], 40, axis=0)
    different = augmented(alike, everything).reshape(40, -1)
    assert len(np.unique(different.round(4), axis=0)) == 40
    other = augmented(alike, everything, seed=4).reshape(40, -1)
    assert not np.allclose(other, different)


@pytest.mark.parametrize("name", ["elastic", "shear", "histogram", "jitter", "gray"])
def test_a_probability_is_a_share_of_the_patches(name):
    x = patches(400, side=5)
    found = augmented(x, PatchAugmentation(**STILL | {name: 0.2}))
    share = (np.abs(found - x).max((1, 2, 3)) > 1e-4).mean()
    assert share == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("fill", lib.FILLS)
def test_two_of_three_channels_are_lost(fill):
    x = patches(300, side=4)
    dropping = STILL | {"color_drop": 0.5, "color_drop_fill": fill}
    found = augmented(x, PatchAugmentation(**dropping))
    changed = np.abs(found - x).max((1, 2, 3)) > 0
    assert changed.mean() == pytest.approx(0.5, abs=0.1)
    kept = np.abs(found - x).max((1, 2)).argmin(1)[changed]
    assert np.bincount(kept, minlength=3).min() > 25
    for patch, before, channel in zip(found[changed], x[changed], kept):
        expected = before[..., channel]
        for other in range(3):
            value = expected if fill == "copy" or other == channel else 0
            np.testing.assert_array_equal(patch[..., other], value + 0 * expected)


def test_a_crop_is_a_window_of_the_patch():
    x = patches(60, side=7)
    found = augmented(x, PatchAugmentation(**STILL | {"crop": 5}))
    corners = set()
    for patch, before in zip(found, x):
        fits = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.allclose(before[i : i + 5, j : j + 5], patch, atol=1e-6)
        ]
        corners.update(fits)
        assert len(fits) == 1
    assert len(corners) == 9


def test_primitives_of_colour_are_those_of_their_names():
    x = patches()
    luma = x @ np.float32([0.299, 0.587, 0.114])
    gray, mean = luma[..., None], luma.mean((1, 2))[:, None, None, None]
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    for sign, factor in ((1, 1.45), (-1, 0.55)):
        expected = {
            "brightness": factor * x,
            "contrast": mean + factor * (x - mean),
            "color": gray + factor * (x - gray),
            "invert": 1 - x,
            "auto_contrast": (x - low) / (high - low),
            "solarize": np.where(x >= 0.5, 1 - x, x),
            "posterize": np.floor(255 * x / 4) * 4 / 255,
        }
        for name, value in expected.items():
            found = primitive(x, name, sign)
            np.testing.assert_allclose(
                found, np.clip(value, 0, 1), atol=1e-5, err_msg=name
            )
    smooth = (
        sum(
            x[:, 3 + i, 4 + j] * (5 if i == j == 0 else 1)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        )
        / 13
    )
    value = np.clip(smooth + 1.45 * (x[:, 3, 4] - smooth), 0, 1)
    found = primitive(x, "sharpness")
    np.testing.assert_allclose(found[:, 3, 4], value, atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])


def test_primitives_that_move_pixels():
    x = patches(2, side=9)
    # 0.45 of nine pixels at full strength, here four.
    right = primitive(x, "translate_x", 1, strength=4 / (0.45 * 9))
    np.testing.assert_allclose(right[:, :, :5], x[:, :, 4:], atol=1e-4)
    down = primitive(x, "translate_y", -1, strength=4 / (0.45 * 9))
    np.testing.assert_allclose(down[:, 4:], x[:, :5], atol=1e-4)
    turned = primitive(x, "rotate", 1, strength=1.0)
    back = primitive(turned, "rotate", -1, strength=1.0)
    assert np.abs(turned - x).max() > 0.1
    np.testing.assert_allclose(turned[:, 4, 4], x[:, 4, 4], atol=1e-5)
    ramp = np.broadcast_to(np.arange(9.0)[None, :, None, None] / 9, (2, 9, 9, 1))
    ramp = ramp.astype(np.float32)
    turned = primitive(ramp, "rotate", 1, strength=1.0)[0, 4, :, 0]
    expected = (4 + np.sin(np.radians(30)) * (np.arange(9) - 4)) / 9
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    assert back.shape == x.shape
    leaning = primitive(ramp, "shear_y", 1, strength=1.0)[0, 4, :, 0]
    np.testing.assert_allclose(leaning, (4 + 0.3 * (np.arange(9) - 4)) / 9, atol=1e-5)


@pytest.mark.parametrize(
    "given, match",
    [
        ({"crop": 0}, "crop=0 received"),
        ({"primitives": -1}, "primitives=-1"),
        ({"elastic": 1.5}, "elastic=1.5"),
        ({"hue": 0.7}, "hue=0.7"),
        ({"color_drop_fill": "noise"}, "color_drop_fill='noise'"),
    ],
)
def test_numbers_that_cannot_be_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        PatchAugmentation(**given)

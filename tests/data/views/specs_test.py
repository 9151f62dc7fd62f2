import copy
import pickle

import numpy as np
import pytest

from tfssl.data.views import recipes, specs


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": 0}, "size=0 received, expected a whole number, 1 or more"),
        ({"size": 2.5}, "size=2.5"),
        ({"area": (0.5, 1.1)}, r"area=\(0.5, 1.1\) received, expected fractions"),
        ({"area": (0.0, 1.0)}, "area="),
        ({"area": (0.9, 0.5)}, "area="),
        ({"area": 0.5}, r"area=0.5 received, expected two numbers \(low, high\)"),
        ({"aspect": (0.0, 1.0)}, "aspect="),
        ({"crop_tries": 0}, "crop_tries=0"),
        (
            {"crop_rule": "width"},
            "crop_rule='width' received, expected one of area, height",
        ),
        ({"crop_fallback": "none"}, "one of center, whole, clamp"),
        ({"flip": 1.5}, "flip=1.5 received, expected a number from 0 to 1"),
        ({"gray": -0.1}, "gray=-0.1"),
        (
            {"brightness": -1.0},
            "brightness=-1.0 received, expected a number, 0 or more",
        ),
        ({"hue": 0.6}, r"hue=0.6 received, expected a number from 0 to 0.5"),
        ({"brightness_mode": "plus"}, "one of multiply, add"),
        (
            {"blur_sigma": (0.0, 2.0)},
            r"blur_sigma=\(0.0, 2.0\) received, expected pixels",
        ),
        ({"blur_sigma": (-1, 2.0)}, "blur_sigma="),
        ({"blur_border": "wrap"}, "one of zero, edge, reflect"),
        ({"solarize_threshold": 2}, "solarize_threshold=2"),
        ({"rotation": -0.1}, "rotation=-0.1"),
        ({"rand_augment": 1.5}, "rand_augment=1.5 received, expected a whole number"),
        ({"rand_augment": 17}, "rand_augment=17 received"),
        ({"rand_augment_magnitude": 31}, "magnitude=31 .* a number from 0 to 30"),
        ({"resize": "nearest"}, "one of bilinear, bicubic"),
        ({"mean": (0.5,)}, "expected both or neither"),
        ({"mean": (0.5,), "std": (0.0,)}, "expected values above 0"),
        ({"mean": 0.5, "std": 0}, r"std=\(0.0,\) received, expected values above 0"),
        ({"mean": (), "std": ()}, r"mean=\(\) received, expected one number, or one"),
        ({"mean": "half", "std": 1}, "mean='half' received, expected one number, or"),
        ({"mean": 0.5, "std": float("nan")}, "std=nan received, expected one number"),
        ({"area": (float("nan"), 1.0)}, "area="),
        ({"contrast": float("nan")}, "contrast=nan"),
    ],
)
def test_impossible_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        specs.View(**settings)


def test_scaled_keeps_the_proportions_of_the_views():
    small = recipes.SWAV.scaled(32, blur=0.0)
    assert [view.size for view in small] == [32, 32] + [14] * 6  # 96 / 224 * 32.
    assert small.name == "swav"
    assert small[2].area == (0.05, 0.14) and small[0].blur == 0.0
    assert recipes.SWAV[0].blur == 0.5  # The original is as it was.
    assert [v.size for v in recipes.SWAV.scaled(gray=0.0)] == [224, 224] + [96] * 6


def test_a_recipe_needs_views():
    with pytest.raises(ValueError, match="no views"):
        specs.Recipe([])
    with pytest.raises(ValueError, match="must be a tfssl.data.View"):
        specs.Recipe(["simclr"])


def test_recipes_are_values():
    again = pickle.loads(pickle.dumps(recipes.BYOL))
    assert again == recipes.BYOL and again.name == "byol"
    assert copy.deepcopy(recipes.BYOL).name == "byol"
    assert hash(recipes.BYOL[0]) == hash(again[0])
    assert "byol" in repr(again)


@pytest.mark.parametrize(
    "mean", [0.5, np.float32(0.5), np.array(0.5), (0.5,), [np.float64(0.5)]]
)
def test_one_number_normalises_all_channels(mean):
    view = specs.View(mean=mean, std=1)
    assert view == specs.View(mean=(0.5,), std=(1.0,)) and hash(view)
    assert view.scaled(8).mean == (0.5,) and type(view.mean[0]) is float
    assert specs.View(mean=np.array([0.1, 0.2]), std=[1, 2]).std == (1.0, 2.0)


def test_pairs_may_be_lists():
    pairs = {"area": [0.2, 1.0], "aspect": [0.5, 2.0], "blur_sigma": [0.5, 1.0]}
    view = specs.View(crop_rule="height", **pairs)
    assert view == specs.View(
        crop_rule="height", **{name: tuple(pair) for name, pair in pairs.items()}
    )
    assert hash(view)

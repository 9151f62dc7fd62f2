import math

import pytest

from tfssl.data.views import tokenizer_recipes


def test_the_crop_is_256_of_288_to_384_pixels():
    (view,) = tokenizer_recipes.TOKENIZER
    sides = [math.sqrt(area) for area in view.area]
    assert sides == pytest.approx([256 / 384, 256 / 288], abs=1e-3)
    assert view.aspect == (1.0, 1.0) and view.size == 256


def test_no_recipe_touches_colours():
    for recipe in tokenizer_recipes.RECIPES.values():
        (view,) = recipe
        assert view.jitter == view.gray == view.blur == view.solarize == 0
        assert view.mean is None and view.std is None

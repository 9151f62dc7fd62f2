"""The views of BEiT have the numbers of the authors' code."""

import dataclasses

from tfssl.data.views import beit_recipes, recipes, specs


def test_beits_view_is_that_of_the_authors_code():
    (view,) = beit_recipes.BEIT
    assert view == specs.View(
        size=224,
        area=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=1.0,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.0,
        contrast_mean="gray",
        resize="bicubic",
        antialias=True,
        clip_resized=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    (small,) = beit_recipes.BEIT_CIFAR10
    assert small == dataclasses.replace(view, size=32, area=(0.2, 1.0))


def test_they_have_their_names_in_the_recipes():
    for name, recipe in beit_recipes.RECIPES.items():
        assert recipes.get(name) is recipe
        assert recipe.name == name

import pytest

from tfssl.data.views import dino_recipes


@pytest.mark.parametrize(
    "name, areas", [("dino", (0.05, 0.4)), ("dino_resnet", (0.05, 0.14))]
)
def test_views_are_those_of_main_dino(name, areas):
    first, second, *small = dino_recipes.RECIPES[name]
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert second == first.scaled(blur=0.1, solarize=0.2)
    assert len(small) == 8
    assert {(v.size, v.area, v.blur, v.solarize) for v in small} == {
        (96, areas, 0.5, 0.0)
    }


@pytest.mark.parametrize("name", dino_recipes.RECIPES)
def test_small_views_follow_two_large_ones_and_a_patch_divides_them(name):
    recipe = dino_recipes.RECIPES[name]
    assert recipe.name == name
    first, second, *small = (view.size for view in recipe)
    patch = 16 if first == 224 else 4
    assert first == second and all(size < first for size in small)
    assert all(size % patch == 0 for size in (first, *small))

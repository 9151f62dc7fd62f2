import pytest

from tfssl.data.views import pretext_recipes as made
from tfssl.data.views import recipes, specs


@pytest.mark.parametrize("name", ["pirl_jigsaw", "pirl_jigsaw_cifar10"])
def test_the_tiles_of_pirl_have_the_colours_of_the_image(name):
    image, tiles = recipes.get(name)
    assert isinstance(tiles, specs.Tiles) and not isinstance(image, specs.Tiles)
    assert tiles == image.in_tiles(
        tiles.size, grid=3, whole=tiles.whole, area=(0.6, 1.0)
    )


def test_the_authors_tiles():
    for tiles in (made.PIRL_JIGSAW[1], made.JIGSAW[0]):
        assert (tiles.size, tiles.grid, tiles.whole, tiles.cell) == (64, 3, 255, 85)


def test_the_pretext_task_of_a_data_set_has_the_tiles_of_its_pirl():
    for pirl, jigsaw in (
        (made.PIRL_JIGSAW, made.JIGSAW),
        (made.PIRL_JIGSAW_CIFAR10, made.JIGSAW_CIFAR10),
        (made.PIRL_JIGSAW_DIGITS, made.JIGSAW_DIGITS),
    ):
        (alone,) = jigsaw
        for field in ("size", "grid", "whole", "area"):
            assert getattr(alone, field) == getattr(pirl[1], field), field
    # At the sizes of their flagfiles.
    assert (
        made.PIRL_JIGSAW_DIGITS.scaled(16)[1].whole
        == made.JIGSAW_DIGITS.scaled(18)[0].whole
        == 18
    )


def test_small_pretext_tasks_differ_from_their_pirl_in_the_flip_alone():
    for pirl, jigsaw in (
        (made.PIRL_JIGSAW_CIFAR10, made.JIGSAW_CIFAR10),
        (made.PIRL_JIGSAW_DIGITS, made.JIGSAW_DIGITS),
    ):
        assert jigsaw[0] == pirl[1].scaled(flip=0.0)


def test_rotations_second_view_is_the_first():
    for recipe in (made.PIRL_ROTATION, made.PIRL_ROTATION_CIFAR10):
        assert recipe[0] == recipe[1]

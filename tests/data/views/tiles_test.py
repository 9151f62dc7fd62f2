import numpy as np
import pytest
import tensorflow as tf

from tfssl import data
from tfssl.data import sources, views
from tfssl.data.views import pretext_recipes, recipes, specs, tiles

WHOLE = specs.View(size=12, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0)


def numbered(grid=3, cell=4, channels=3):
    """A picture whose cells hold their own numbers, from the top left, row by row."""
    cells = np.arange(grid**2).reshape(grid, grid)
    picture = cells.repeat(cell, 0).repeat(cell, 1)
    return np.repeat(picture[..., None], channels, -1).astype(np.uint8)


def made(images, recipe, place="host", **kwargs):
    source = sources.ArraySource(images, np.arange(len(images)))
    batch = next(iter(data.multiview(source, recipe, augment_on=place, **kwargs)))
    return views.finish(batch, recipe)["views"]


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("whole", [12, 96])
def test_tiles_of_numbered_cells_come_in_their_order(place, whole):
    """In chunks of a batch, and image by image."""
    recipe = [WHOLE.in_tiles(whole // 6, grid=3, whole=whole)]
    images = np.stack([numbered(cell=whole // 3)] * 8)
    for augment in (True, False):
        found = made(images, recipe, place, batch_size=8, augment=augment)["view_0"]
        assert found.shape == (8, 9, whole // 6, whole // 6, 3)
        expected = np.broadcast_to(np.arange(9)[:, None, None, None], found.shape)
        np.testing.assert_allclose(255 * found, expected, atol=1e-3)


@pytest.mark.parametrize("antialias", [False, True])
def test_a_tile_is_a_place_of_its_cell_with_a_flip_of_its_own(antialias):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(12, 12, 3)).astype(np.float32)
    view = WHOLE.in_tiles(2, grid=2, whole=12, flip=0.5, antialias=antialias)
    numbers = views.sample([view], batch=40, channels=3, seed=1, step=0)
    named = {k: v.numpy() for k, v in views.split(numbers, [view]).items()}
    one = tf.function(lambda n: views.apply(n, image, [view])[0])
    offsets = set()
    for row in range(40):
        found = one(numbers[row]).numpy()
        for number, tile in enumerate(found):
            # Of 4 pixels to spare there are 4 places, as of the 21 of PIRL's code.
            down, across = np.floor(4 * named["cell"][row, number]).astype(int)
            offsets.add((down, across))
            top, left = 6 * (number // 2) + down, 6 * (number % 2) + across
            expected = image[top : top + 2, left : left + 2]
            if named["flip"][row, number] > 0.5:
                expected = expected[:, ::-1]
            np.testing.assert_allclose(tile, expected, atol=1e-5)
    assert offsets == {(a, b) for a in range(4) for b in range(4)}
    assert 0 < named["flip"].mean() < 1


def test_tiles_share_the_crop_and_nothing_else():
    view = specs.View(size=8, gray=0.5, blur=0.5, brightness=0.5)
    view = view.in_tiles(4, grid=2, whole=12)
    recipe = tiles.flat([recipes.SIMCLR_CIFAR10[0], view])
    numbers = views.sample(recipe, batch=20, channels=3, seed=0, step=0)
    packed = views.pack(numbers, recipe, 3)
    boxes = views.boxes(packed, recipe, 40, 50).numpy()
    assert boxes.shape == (20, 5, 4)
    for number in range(2, 5):
        np.testing.assert_array_equal(boxes[:, number], boxes[:, 1])
    assert (boxes[:, 0] != boxes[:, 1]).any(-1).all()
    named = views.split(numbers, recipe)
    for name in ("gray", "brightness", "sigma", "cell"):
        of_tiles = named[name].numpy()[:, 1:]
        assert (of_tiles[:, 1:] != of_tiles[:, :1]).any(), name


def test_every_tile_has_a_colour_of_its_own():
    """A picture of one colour, whose tiles would be alike."""
    view = WHOLE.in_tiles(4, grid=3, whole=12, jitter=1.0, brightness=0.5)
    images = np.full((8, 12, 12, 3), 100, np.uint8)
    for place in ("host", "device"):
        found = made(images, [view], place, batch_size=8)["view_0"].numpy()
        levels = found[:, :, 0, 0, 0]
        assert all(len(np.unique(row)) == 9 for row in levels)
        np.testing.assert_allclose(found, levels[..., None, None, None] + 0 * found)


def test_a_recipe_without_tiles_is_flat_and_draws_no_places():
    recipe = recipes.SIMCLR_CIFAR10
    assert tiles.flat(recipe) == recipe and tiles.flat(recipe).name == recipe.name
    plain = views.sample(recipe, batch=2, channels=3, seed=0, step=0)
    mixed = [recipe[0], recipe[0].in_tiles(4, grid=2, whole=8)]
    assert views.sample(mixed, batch=2, channels=3, seed=0, step=0).shape == (
        2,
        5,
        plain.shape[-1] + 2,
    )


def test_scaled_keeps_the_proportions_of_the_cells():
    small = pretext_recipes.PIRL_JIGSAW.scaled(32)
    assert (small[0].size, small[1].size, small[1].whole) == (32, 9, 36)
    assert small[1].grid == 3 and small.name == "pirl_jigsaw"
    # Of a recipe that begins with tiles the size is that of what they are cut from.
    (jigsaw,) = pretext_recipes.JIGSAW.scaled(51)
    assert (jigsaw.size, jigsaw.whole) == (13, 51)
    assert pretext_recipes.JIGSAW[0].untiled() == specs.View(
        **{
            field: getattr(pretext_recipes.JIGSAW[0], field)
            for field in vars(specs.View())
            if field != "size"
        },
        size=255,
    )


def test_impossible_tiles_are_refused_in_a_sentence():
    with pytest.raises(
        ValueError, match="grid=3 does not divide whole=256 pixels; .*255"
    ):
        WHOLE.in_tiles(64, grid=3, whole=256)
    with pytest.raises(
        ValueError, match="size=90 received for tiles out of cells of 85"
    ):
        WHOLE.in_tiles(90, grid=3, whole=255)
    with pytest.raises(ValueError, match="grid=0 received"):
        WHOLE.in_tiles(64, grid=0, whole=255)


def test_stacked_and_unstacked_are_inverse():
    recipe = [
        WHOLE,
        WHOLE.in_tiles(1, grid=1, whole=4),
        WHOLE.in_tiles(2, grid=2, whole=4),
    ]
    pictures = [tf.fill([3, 2], float(i)) for i in range(6)]
    stacked = tiles.stacked(pictures, recipe, axis=1)
    assert [x.shape for x in stacked] == [(3, 2), (3, 1, 2), (3, 4, 2)]
    for a, b in zip(tiles.unstacked(stacked, recipe, axis=1), pictures, strict=True):
        np.testing.assert_array_equal(a, b)
    assert tiles.most(recipe) == 4
    assert [tiles.is_tiled(view) for view in recipe] == [False, True, True]
    assert tiles.owners(tiles.flat(recipe)) == [0, 1, 2, 2, 2, 2]

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import pipeline, sources
from tfssl.data.views import pretext_recipes, recipes
from tfssl.tasks import show_views


def images(channels=3, size=20, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (6, size, size, channels)).astype(
        dtype
    )


def test_the_sheet_shows_what_training_sees(tmp_path):
    source = sources.open_source(images())
    recipe = recipes.SIMCLR_CIFAR10.scaled(16)
    path = tmp_path / "new" / "views.png"
    drawn = show_views.sheet(source, recipe, str(path), num_images=4, seed=3)
    read = tf.io.decode_png(path.read_bytes()).numpy()
    np.testing.assert_array_equal(read, drawn)
    batch = next(iter(pipeline.multiview(source, recipe, batch_size=4, seed=3)))
    # Three columns of 16 pixels, 2 apart, 6 more after the original; rows alike.
    assert drawn.shape == (4 * 18 + 2, 3 * 18 + 6 + 2, 3)
    for row in range(4):
        for view, left in enumerate((2 + 18 + 6, 2 + 36 + 6)):
            top = 2 + 18 * row
            tile = drawn[top : top + 16, left : left + 16]
            expected = np.round(batch["views"][f"view_{view}"][row].numpy() * 255)
            np.testing.assert_array_equal(tile, expected)
    assert [p.name for p in path.parent.iterdir()] == ["views.png"]


@pytest.mark.parametrize("name", ["views.jpg", "views"])
def test_a_name_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="give a name that ends in .png"):
        show_views.show_views(images(), str(tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_normalization_is_taken_off_and_sizes_may_differ(tmp_path):
    source = sources.open_source(images())
    recipe = recipes.SWAV.scaled(16)
    drawn = show_views.sheet(source, recipe, str(tmp_path / "v.png"), num_images=2)
    assert drawn.shape[1] == 3 * 18 + 6 * 9 + 6 + 2  # 96 / 224 * 16 is 7.
    plain = show_views.sheet(
        source, recipe, str(tmp_path / "v.png"), num_images=2, augment=False
    )
    assert (plain[2:18, 26:42] == plain[2:18, 44:60]).all()  # Both large views.
    unnormalized = recipe.scaled(mean=None, std=None)
    other = show_views.sheet(
        source, unnormalized, str(tmp_path / "v.png"), num_images=2, augment=False
    )
    np.testing.assert_allclose(plain.astype(int), other, atol=1)


def test_tiles_are_shown_at_their_places(tmp_path):
    source = sources.open_source(images())
    recipe = [pretext_recipes.PIRL_JIGSAW[1].scaled(4, whole=24)]
    path = str(tmp_path / "v.png")
    drawn = show_views.sheet(source, recipe, path, num_images=2)
    # Two columns of 24 pixels, 2 apart, 6 more after the original.
    assert drawn.shape == (2 * 26 + 2, 2 * 26 + 6 + 2, 3)
    batch = next(iter(pipeline.multiview(source, recipe, batch_size=2)))
    tiles = batch["views"]["view_0"].numpy() * recipe[0].std + recipe[0].mean
    for row in range(2):
        for number, tile in enumerate(tiles[row]):
            top = 2 + 26 * row + 8 * (number // 3) + 2
            left = 2 + 26 + 6 + 8 * (number % 3) + 2
            shown = drawn[top : top + 4, left : left + 4]
            np.testing.assert_allclose(shown, 255 * np.clip(tile, 0, 1), atol=0.51)
    white = drawn[2:28, 34:58].copy()
    white[2:6, 2:6] = white[2:6, 10:14] = 255
    assert (white[:2] == 255).all() and (white[:8, 6:10] == 255).all()


@pytest.mark.parametrize("channels, dtype", [(1, np.uint8), (13, np.uint16)])
def test_any_source_can_be_shown(tmp_path, channels, dtype):
    drawn = show_views.show_views(
        images(channels, dtype=dtype),
        str(tmp_path / "v.png"),
        recipe="simclr",
        image_size=16,
        num_images=100,
    )
    assert drawn.shape[0] == 6 * 18 + 2  # As many rows as there are images.
    if channels == 1:
        assert (drawn == drawn[..., :1]).all()


def test_a_sequence_shows_its_originals(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(images(size=16))
    source = sources.open_source(dataset)
    recipe = recipes.SIMCLR_CIFAR10.scaled(16)
    drawn = show_views.sheet(source, recipe, str(tmp_path / "v.png"), num_images=6)
    index = next(iter(pipeline.multiview(source, recipe, batch_size=6)))["index"]
    for row, i in enumerate(index.numpy()):
        top = 2 + 18 * row
        np.testing.assert_array_equal(drawn[top : top + 16, 2:18], images(size=16)[i])


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="num_images=0 received"):
        show_views.show_views(images(), str(tmp_path / "v.png"), num_images=0)
    with pytest.raises(ValueError, match="recipe='x' received"):
        show_views.show_views(images(), str(tmp_path / "v.png"), recipe="x")

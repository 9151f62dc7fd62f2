import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tests.fixtures import cases_together, every_recipe
from tfssl.data import pipeline, sources, views
from tfssl.data.views import device, recipes

# What half a level of a finished view may come to: the colour steps multiply
# differences, at most by their factors, and a deviation divides them.
_HALF = 0.5 / 255


def pictures(count=8, channels=3, dtype=np.uint8, size=40):
    """Edges between flat parts, far from black and white: nothing overshoots."""
    rng = np.random.default_rng(7)
    coarse = rng.uniform(0.15, 0.85, size=(count, 5, 6, channels))
    fine = np.repeat(np.repeat(coarse, size // 5, 1), size // 5, 2)
    fine += rng.uniform(-0.02, 0.02, fine.shape)
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    return (fine * white).astype(dtype)


def both(images, recipe, **kwargs):
    """`(host, begun, finished)`: a batch of the host alone, and one of both."""
    source = images
    if isinstance(images, np.ndarray):
        source = sources.ArraySource(images, np.arange(len(images)))
    found = [
        next(iter(pipeline.multiview(source, recipe, augment_on=place, **kwargs)))
        for place in ("host", "device")
    ]
    finish = tf.function(
        lambda batch: views.finish(batch, recipe), jit_compile=True, autograph=False
    )
    return *found, finish(found[1])


def differences(host, finished):
    assert host.keys() == finished.keys()
    for key in set(host) - {"views"}:
        np.testing.assert_array_equal(host[key], finished[key], err_msg=key)
    assert host["views"].keys() == finished["views"].keys()
    pairs = [(host["views"][k], finished["views"][k]) for k in host["views"]]
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype == tf.float32
    return [np.abs(a - b) for a, b in pairs]


@every_recipe.by_name
def test_views_are_those_of_the_host_but_for_one_rounding(name):
    recipe = every_recipe.few_alike(recipes.get(name).scaled(24))
    host, begun, finished = both(pictures(), recipe, batch_size=8, with_labels=True)
    for view in begun["views"].values():
        assert view.dtype == tf.uint8
    for view, found in zip(recipe, differences(host, finished)):
        deviation = 1.0 if view.std is None else min(view.std)
        assert np.mean(found) < _HALF / deviation
        assert np.quantile(found, 0.99) < 4 * _HALF / deviation
        assert np.max(found) < 15 * _HALF / deviation


@pytest.mark.parametrize(
    "name, channels",
    [
        ("simclr", 4),
        pytest.param("byol", 3, marks=pytest.mark.slow),
        ("moco_v3", 1),
        ("rand_augment", 3),
    ],
)
def test_nothing_is_rounded_of_float_images(name, channels):
    # 4 channels have no colour; mean and deviation are averaged for 1 and 4.
    recipe = recipes.get(name).scaled(24, rotation=0.2)
    images = pictures(channels=channels, dtype=np.float32)
    host, begun, finished = both(images, recipe, batch_size=8)
    assert begun["views"]["view_0"].dtype == tf.float32
    for found in differences(host, finished):
        assert np.max(found) < 2e-5


def test_whole_numbers_stay_as_they_are():
    """With each border of the blur."""
    # A crop that is the view needs no resize, so there is nothing to round.
    view = recipes.SIMCLR.scaled(
        30,
        crop_rule="area",
        area=(1.0, 1.0),
        aspect=(1.0, 1.0),
        resize="bilinear",
        blur=0.7,
        solarize=0.5,
        solarize_threshold=0.4,
    )[0]
    borders = ["zero", "edge", "reflect"]
    recipe = recipes.Recipe([view.scaled(blur_border=border) for border in borders])
    host, _, finished = both(pictures()[:, :30, :30], recipe, batch_size=8)
    for found in differences(host, finished):
        # A value at the threshold may fall on either side.
        assert np.mean(found > 2e-5) < 1e-3


@pytest.mark.parametrize("size", [24, 80])
def test_sixteen_bits_stay_sixteen(size):
    # Views of 80 pixels are made image by image, those of 24 in chunks.
    recipe = recipes.MOCO_V2.scaled(size)
    images = pictures(dtype=np.uint16)
    host, begun, finished = both(images, recipe, batch_size=8)
    assert begun["views"]["view_0"].dtype == tf.uint16
    for found in differences(host, finished):
        assert np.max(found) < 15 * 0.5 / 65535 / 0.2


def test_what_a_bicubic_filter_overshoots_is_cut():
    checkers = np.indices((40, 40)).sum(0) // 3 % 2 * 255
    images = np.tile(checkers[..., np.newaxis], (8, 1, 1, 3)).astype(np.uint8)
    recipe = recipes.SIMCLR.scaled(24, jitter=0.0, gray=0.0, blur=0.0)
    host, begun, finished = both(images, recipe, batch_size=8)
    assert {0, 255} <= set(np.ravel(begun["views"]["view_0"]))
    for found in differences(host, finished):
        assert np.max(found) < _HALF + 1e-6  # The host cuts it later.


def test_files_make_the_same_views(tmp_path):
    source, _ = made.folder_of(tmp_path / "files")
    # Views of 70 pixels are made image by image, those of 12 in chunks.
    for size, used in ((12, recipes.SWAV[1:3]), (70, recipes.SWAV[2:3])):
        recipe = recipes.Recipe(used).scaled(size)
        host, begun, finished = both(source, recipe, batch_size=4)
        for view in begun["views"].values():
            assert view.dtype == tf.uint8
        for found in differences(host, finished):
            assert np.mean(found) < _HALF / 0.2


def test_without_augmentation_nothing_is_left_to_the_device():
    recipe = recipes.BYOL.scaled(16)
    host, begun, finished = both(pictures(), recipe, batch_size=8, augment=False)
    assert "numbers" not in begun
    for found in differences(host, finished):
        assert not found.any()


def test_workers_and_a_resumed_stream_have_the_rows_of_the_whole():
    source, recipe = made.array(), recipes.SIMCLR.scaled(8)
    of_device = dict(views_of=recipe, augment_on="device")
    whole = made.rows_of(source, 6, **of_device)
    part = made.rows_of(source, 3, shard=(1, 2), start=10, **of_device)
    rows = [10, 11, 14, 15, 18, 19]
    made.assert_same(part, {key: value[rows] for key, value in whole.items()})


def test_other_recipes_and_places_are_refused():
    recipe, source = recipes.SIMCLR.scaled(16), sources.ArraySource(pictures())
    begun = pipeline.multiview(source, recipe, batch_size=8, augment_on="device")
    others = recipe.scaled(20), recipe[:1], recipe.scaled(hue=0.0)
    for other in others:
        with pytest.raises(ValueError, match="by the recipe that it was made by"):
            views.finish(begun.element_spec, other)
    with pytest.raises(ValueError, match="augment_on='gpu' received"):
        pipeline.multiview(source, recipe, batch_size=8, augment_on="gpu")


def held(source, recipe, jit_compile=False, **kwargs):
    """`(host, finished)`: a batch of the host, and one of images on the device."""
    places = dict(augment_on="device", images_on="device")
    host = next(iter(pipeline.multiview(source, recipe, **kwargs)))
    batch = next(iter(pipeline.multiview(source, recipe, **places, **kwargs)))
    assert "views" not in batch
    finish = tf.function(
        lambda batch: views.finish(batch, recipe),
        jit_compile=jit_compile,
        autograph=False,
    )
    images = source.stacked(tf.range(source.num_images))
    return host, finish({**batch, "images": {device.mark(source): images}})


_HELD = {
    "simclr": {},
    "byol": {"jit_compile": True},
    "moco_v1": {"dtype": np.uint16},
    "deepcluster": {"channels": 1},
    "cpc_v2": {"channels": 4, "dtype": np.float32},
    "swav": {"jit_compile": True},
    "npid": {},
    "beit": {},
    "pirl_jigsaw": {"jit_compile": True},
}
_LIKE_OTHERS = ("simclr", "swav", "npid")


@pytest.mark.parametrize(
    "name, case",
    [
        cases_together.slow_where(name in _LIKE_OTHERS, name, case)
        for name, case in _HELD.items()
    ],
)
def test_of_images_on_the_device_nothing_is_rounded(name, case):
    case = dict(case)
    compiled = {"jit_compile": case.pop("jit_compile", False)}
    source = sources.ArraySource(pictures(**case), np.arange(8))
    recipe = recipes.get(name).scaled(24)
    batches = held(source, recipe, batch_size=8, with_labels=True, **compiled)
    for found in differences(*batches):
        assert np.max(found) < 2e-5


def test_images_on_the_device_are_those_of_this_place_in_the_stream():
    """A worker's rows, of a list, after a start in mid-epoch, every image twice."""
    source = sources.ArraySource(pictures())
    order = np.int64([5, 2, 2, 7, 1, 0, 3, 3])
    stream = dict(sampling=order, repeats=2, start=6, shard=(1, 2), batch_size=4)
    for found in differences(*held(source, recipes.BYOL.scaled(16), **stream)):
        assert np.max(found) < 2e-5


def test_images_that_cannot_lie_on_the_device_are_refused(tmp_path):
    recipe, source = recipes.SIMCLR.scaled(16), sources.ArraySource(pictures())
    files, _ = made.folder_of(tmp_path / "files")
    cases = [
        (source, recipe, {"augment_on": "host"}, "set it to 'device'"),
        (source, recipe, {"data_service": "grpc://a:1"}, "leave data_service out"),
        (source, recipe.scaled(rotation=0.2), {}, "turns or shears images"),
        (source, recipe.scaled(65), {}, "40x48 px for views of up to 65 px"),
        (sources.ArraySource(pictures(size=65)), recipe, {}, "65x78 px for views of"),
        (files, recipe, {}, "has files, or images of several"),
    ]
    for images, chosen, options, words in cases:
        places = {"augment_on": "device", "images_on": "device"} | options
        with pytest.raises(ValueError, match=f"images_on='device' received.*{words}"):
            pipeline.multiview(images, chosen, batch_size=4, **places)
    with pytest.raises(ValueError, match="images_on='gpu' received"):
        pipeline.multiview(source, recipe, batch_size=4, images_on="gpu")

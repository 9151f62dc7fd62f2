"""Every recipe of the library: its draws against their distributions, its views
against plain NumPy, and what the departures from the papers' code amount to."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn import datasets

from tests.data import plain_views
from tests.fixtures import every_recipe
from tfssl.data import views
from tfssl.data.views import batched, recipes, tiles

_MANY = 3000
# About 300 comparisons are made below: all but 3 % of correct programs pass them.
_P = 1e-4


def drawn(recipe, batch=_MANY, step=0):
    numbers = views.sample(recipe, batch=batch, channels=3, seed=1, step=step)
    return numbers, {k: v.numpy() for k, v in views.split(numbers, recipe).items()}


def assert_uniform(values, low, high, name):
    if low == high:
        np.testing.assert_allclose(values, low, rtol=1e-6, err_msg=name)
    else:
        found = stats.kstest(values, stats.uniform(low, high - low).cdf)
        assert found.pvalue > _P, name


def assert_coin(values, probability, name):
    assert set(np.unique(values)) <= {0.0, 1.0}, name
    heads = int(values.sum())
    found = stats.binomtest(heads, len(values), probability)
    assert found.pvalue > _P, (name, heads)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_draws_follow_the_distributions_of_the_recipe(name):
    recipe = tiles.flat(recipes.get(name))
    _, numbers = drawn(recipe)
    for i, view in enumerate(recipe):
        n = {key: value[:, i] for key, value in numbers.items()}
        scale = np.log if view.aspect_scale == "log" else np.asarray
        for attempt in {0, view.crop_tries - 1}:
            by_height = view.crop_rule == "height"
            bounds = (0.0, 1.0) if by_height else view.area
            assert_uniform(n["areas"][:, attempt], *bounds, "area")
            aspects = scale(n["aspects"][:, attempt])
            assert_uniform(aspects, *scale(view.aspect), "aspect")
        for axis in (0, 1):
            assert_uniform(n["place"][:, axis], 0, 1, "place")
            moved = view.translation
            assert_uniform(n["translation"][:, axis], -moved, moved, "translation")
        if view.brightness_mode == "add":
            spread = view.brightness
            assert_uniform(n["brightness"], -spread, spread, "brightness")
        else:
            d = view.brightness
            assert_uniform(n["brightness"], max(0, 1 - d), 1 + d, "brightness")
        for field in ("contrast", "saturation"):
            d = getattr(view, field)
            assert_uniform(n[field], max(0, 1 - d), 1 + d, field)
        for field in ("hue", "rotation", "shear"):
            d = getattr(view, field)
            assert_uniform(n[field], -d, d, field)
        for field in ("flip", "jitter", "gray", "solarize"):
            assert_coin(n[field], getattr(view, field), field)
        assert_coin((n["sigma"] > 0) * 1.0, view.blur, "blur")
        for field in ("rand_augment", "cell", "erase"):
            for column in np.moveaxis(n.get(field, np.zeros((0, 0))), -1, 0):
                assert_uniform(column, 0, 1, field)
        if view.blur:
            assert_uniform(n["sigma"][n["sigma"] > 0], *view.blur_sigma, "sigma")
        orders = np.argsort(n["order"], -1)
        counts = np.unique(orders, axis=0, return_counts=True)[1]
        assert len(counts) == 24 and stats.chisquare(counts).pvalue > _P


def test_a_fixed_order_is_fixed():
    view = recipes.SIMCLR[0].scaled(random_order=False)
    _, n = drawn([view], 100)
    assert (np.argsort(n["order"], -1) == np.arange(4)).all()


def test_numbers_of_views_images_and_steps_are_independent():
    recipe = recipes.SIMCLR
    _, now = drawn(recipe)
    _, later = drawn(recipe, step=1)
    names = ("areas", "aspects", "place", "flip", "jitter", "brightness", "contrast",
             "saturation", "hue", "order", "gray", "sigma")  # fmt: skip

    def table(n):  # Both views side by side; the first two tries of a crop.
        return np.concatenate([n[k].reshape(_MANY, 2, -1)[..., :4] for k in names], -1)

    now, later = (table(n).reshape(_MANY, -1) for n in (now, later))
    width = now.shape[1]
    # 6 standard errors, 6 / sqrt(3,000), for some 10,000 pairs of columns.
    for other in (now, np.roll(now, 1, axis=0), later):  # Itself, the next image, …
        found = np.corrcoef(now.T, other.T)[:width, width:]
        found = found - np.eye(width) if other is now else found
        assert np.abs(found).max() < 0.11


@pytest.mark.parametrize("name", ["simclr", "byol", "moco_v2", "swav"])
def test_crops_are_those_of_a_loop_over_tries_and_lie_uniformly(name):
    # A wide image, so that many first tries do not fit.
    recipe, height, width = recipes.get(name), 300, 500
    packed, n = drawn(recipe)
    packed = views.pack(packed, recipe, 3)
    boxes = views.boxes(packed, recipe, height, width).numpy()
    rng = np.random.default_rng(0)
    for i in {0, len(recipe) - 1}:
        view = recipe[i]
        top, left, high, wide = boxes[:, i].T
        by_height = view.crop_rule == "height"
        bounds = (0.0, 1.0) if by_height else view.area
        low, top_ratio = view.aspect
        theirs = []
        for _ in range(_MANY):
            areas = rng.uniform(*bounds, view.crop_tries)
            aspects = rng.uniform(low, top_ratio, view.crop_tries)
            if view.aspect_scale == "log":
                aspects = np.exp(rng.uniform(*np.log(view.aspect), view.crop_tries))
            place = rng.uniform(size=2)
            box = plain_views.box_by_height if by_height else plain_views.box
            rule = view.area if by_height else view.crop_fallback
            theirs.append(box(areas, aspects, place, height, width, rule))
        ours, theirs = boxes[:, i], np.array(theirs)
        for of in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2]):
            assert stats.ks_2samp(of(ours), of(theirs)).pvalue > _P
        for start, length, whole in ((top, high, height), (left, wide, width)):
            free = whole - length
            keep = free > 20  # (start + u) / places is uniform on [0, 1].
            places = free[keep] + (0 if by_height else 1)
            spread = (start[keep] + rng.uniform(size=keep.sum())) / places
            assert_uniform(spread, 0, 1, "position")


# Apply ----------------------------------------------------------------------------


def small(name):
    """The recipe at 24 pixels, with a blur wherever the original has one."""
    return recipes.get(name).scaled(24)


@every_recipe.by_name
def test_views_are_those_of_plain_numpy(name):
    recipe, count = tiles.flat(every_recipe.few_alike(small(name))), 8
    owners = tiles.owners(recipe)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 50, 66, 3)).astype(np.uint8)
    numbers, n = drawn(recipe, count)
    one = tf.function(lambda x, image: views.apply(x, image, recipe), autograph=False)
    singly = [np.stack(made) for made in zip(*(one(*x) for x in zip(numbers, images)))]

    def together():
        packed = views.pack(numbers, recipe, 3)
        resized = batched.geometry(images, packed, recipe)
        return batched.finish(resized, packed, recipe, 255.0)

    batch = tf.function(together, autograph=False)()
    # A bicubic weight is rounded to a table of 1,024 offsets (0.002 of white), and a
    # deviation of 0.225 and the jitter's factors, up to 1.8 each, enlarge it.
    bicubic = recipe[0].resize == "bicubic"
    tolerance = (0.02 if bicubic else 5e-4) * (1 if recipe[0].mean is None else 4.5)
    differences = []
    for i, view in enumerate(recipe):
        for row in range(count):
            of_row = {key: value[row, i] for key, value in n.items()}
            of_crop = {key: value[row, owners[i]] for key, value in n.items()}
            expected = plain_views.view(images[row] / 255.0, of_row, view, of_crop)
            for found in (singly[i][row], batch[i][row]):
                difference = np.abs(found - expected)
                differences.append(difference.mean())
                if of_row["solarize"] > 0.5:  # At the threshold it may go either way.
                    assert np.mean(difference > tolerance) < 5e-3
                elif view.rand_augment:  # So may the levels of posterising, and more.
                    assert np.mean(difference > tolerance) < 3e-2
                else:
                    assert difference.max() < tolerance, (i, row)
    assert np.mean(differences) < tolerance / 20


# Departures -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs():
    """scikit-learn's two photographs, 64 x 96 pixels, values in [0, 1]."""
    images = datasets.load_sample_images().images
    small = [tf.image.resize(x, [64, 96], antialias=True) / 255.0 for x in images]
    return [image.numpy().astype(np.float64) for image in small]


def test_plain_hsv_is_that_of_tensorflow(photographs):
    x = photographs[0]
    for plain, theirs, by in (
        (plain_views.hsv_hue, tf.image.adjust_hue, 0.13),
        (plain_views.hsv_saturation, tf.image.adjust_saturation, 1.6),
    ):
        np.testing.assert_allclose(plain(x, by), theirs(np.float32(x), by), atol=1e-5)


# Mean absolute change of values in [0, 1] by the jitter and grey of one view: ours,
# that of the papers' colour spaces, and the difference between the two.
@pytest.mark.parametrize(
    "name, saturation, stated",
    [
        ("simclr", "hsv", (0.12, 0.121, 0.02)),
        ("byol", "hsv", (0.14, 0.137, 0.017)),
        ("moco_v1", "gray", (0.13, 0.126, 0.031)),
        ("moco_v2", "gray", (0.071, 0.07, 0.013)),
        ("swav", "gray", (0.12, 0.119, 0.015)),
    ],
)
def test_difference_of_a_view_to_the_papers_colours(
    name, saturation, stated, photographs
):
    view = recipes.get(name)[0]
    _, numbers = drawn([view], 100)
    changes = []
    for i in range(100):
        n = {key: value[i, 0] for key, value in numbers.items()}
        image = photographs[i % 2]
        ours = plain_views.jitter(image, n, view)
        papers = plain_views.jitter(image, n, view, hue="hsv", saturation=saturation)
        pairs = ((ours, image), (papers, image), (ours, papers))
        changes.append([np.abs(a - b).mean() for a, b in pairs])
    np.testing.assert_allclose(np.mean(changes, 0), stated, atol=1e-3)


@pytest.mark.parametrize("height, width", [(375, 500), (100, 400), (32, 32)])
def test_crops_of_simclr_are_those_of_tensorflows_operation(height, width):
    """Which draws the height uniformly, where the paper says the area."""
    count = 10 * _MANY
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def theirs_of(i):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3], whole, seed=[1, i], min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0), max_attempts=100,
        )  # fmt: skip
        return tf.concat([begin[:2], size[:2]], 0)

    draws = tf.data.Dataset.range(count).map(theirs_of).batch(count)
    theirs = next(iter(draws)).numpy()
    packed = views.pack(drawn(recipes.SIMCLR, count)[0], recipes.SIMCLR, 3)
    ours = views.boxes(packed, recipes.SIMCLR, height, width).numpy()[:, 0]
    for of in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 2],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 0] + b[:, 2],
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > _P
    if (height, width) == (375, 500):
        for boxes in (ours, theirs):  # docs/views.md states these.
            area = boxes[:, 2] * boxes[:, 3] / (height * width)
            found = area.mean(), area.min(), (area < 0.2).mean()
            np.testing.assert_allclose(found, (0.388, 0.1, 0.235), atol=0.009)


def test_crops_by_area_are_larger():
    """What the words of the paper say, in place of what its code does."""
    recipe = recipes.SIMCLR.scaled(crop_rule="area")
    packed = views.pack(drawn(recipe, 10 * _MANY)[0], recipe, 3)
    boxes = views.boxes(packed, recipe, 375, 500).numpy()[:, 0]
    area = boxes[:, 2] * boxes[:, 3] / (375 * 500)
    found = area.mean(), area.min(), (area < 0.2).mean(), (area < 0.1).mean()
    np.testing.assert_allclose(found, (0.443, 0.08, 0.17, 0.028), atol=0.006)

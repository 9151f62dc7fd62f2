"""Every recipe of the library: its draws against their distributions, its views
against plain NumPy, and what the departures from the papers' code amount to."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn import datasets

from tests.data import plain_views
from tfssl.data import batched, recipes, views

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
    recipe = recipes.get(name)
    _, numbers = drawn(recipe)
    for i, view in enumerate(recipe):
        n = {key: value[:, i] for key, value in numbers.items()}
        scale = np.log if view.aspect_scale == "log" else np.asarray
        for attempt in {0, view.crop_tries - 1}:
            assert_uniform(n["areas"][:, attempt], *view.area, "area")
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
        fallback = view.crop_fallback
        low, top_ratio = view.aspect
        theirs = []
        for _ in range(_MANY):
            areas = rng.uniform(*view.area, view.crop_tries)
            aspects = rng.uniform(low, top_ratio, view.crop_tries)
            if view.aspect_scale == "log":
                aspects = np.exp(rng.uniform(*np.log(view.aspect), view.crop_tries))
            place = rng.uniform(size=2)
            theirs.append(
                plain_views.box(areas, aspects, place, height, width, fallback)
            )
        ours, theirs = boxes[:, i], np.array(theirs)
        for of in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2]):
            assert stats.ks_2samp(of(ours), of(theirs)).pvalue > _P
        for start, length, whole in ((top, high, height), (left, wide, width)):
            free = whole - length
            keep = free > 20  # (start + u) / (free + 1) is uniform on [0, 1].
            spread = (start[keep] + rng.uniform(size=keep.sum())) / (free[keep] + 1)
            assert_uniform(spread, 0, 1, "position")


# Apply ----------------------------------------------------------------------------


def small(name):
    """The recipe at 24 pixels, with a blur wherever the original has one."""
    return recipes.get(name).scaled(24)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_views_are_those_of_plain_numpy(name):
    recipe, count = small(name), 8
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 50, 66, 3)).astype(np.uint8)
    numbers, n = drawn(recipe, count)
    one = tf.function(lambda x, image: views.apply(x, image, recipe))
    singly = [np.stack(made) for made in zip(*(one(*x) for x in zip(numbers, images)))]

    @tf.function
    def together():
        packed = views.pack(numbers, recipe, 3)
        resized = batched.geometry(images, packed, recipe)
        return batched.finish(resized, packed, recipe, 255.0)

    batch = together()
    # A bicubic weight is rounded to a table of 1,024 offsets (0.002 of white), and a
    # deviation of 0.225 and the jitter's factors, up to 1.8 each, enlarge it.
    bicubic = recipe[0].resize == "bicubic"
    tolerance = (0.02 if bicubic else 5e-4) * (1 if recipe[0].mean is None else 4.5)
    differences = []
    for i, view in enumerate(recipe):
        for row in range(count):
            of_row = {key: value[row, i] for key, value in n.items()}
            expected = plain_views.view(images[row] / 255.0, of_row, view)
            for found in (singly[i][row], batch[i][row]):
                difference = np.abs(found - expected)
                differences.append(difference.mean())
                if of_row["solarize"] > 0.5:  # At the threshold it may go either way.
                    assert np.mean(difference > tolerance) < 5e-3
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


def test_crops_of_simclr_are_larger_than_those_of_its_code():
    """TensorFlow's kernel draws the height uniformly, the paper says the area."""
    height, width, count = 375, 500, 500
    draw = tf.function(
        lambda i: tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3], tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), seed=[1, i],
            min_object_covered=0.1, aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0), max_attempts=100,
        ).size
    )  # fmt: skip
    sizes = np.array([draw(tf.constant(i)) for i in range(count)])
    theirs = (sizes[:, 0] * sizes[:, 1] / (height * width)).mean()
    packed = views.pack(drawn(recipes.SIMCLR)[0], recipes.SIMCLR, 3)
    boxes = views.boxes(packed, recipes.SIMCLR, height, width).numpy()[:, 0]
    ours = (boxes[:, 2] * boxes[:, 3] / (height * width)).mean()
    # Two standard errors of 500 crops are 0.02.
    np.testing.assert_allclose([theirs, ours], [0.39, 0.43], atol=0.02)

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats

from tests.data import plain_operations
from tfssl.data import views
from tfssl.data.views import batched, rand_augment

SIZE = 24
VIEW = views.View(
    size=SIZE,
    area=(1.0, 1.0),
    aspect=(1.0, 1.0),
    crop_fallback="whole",
    flip=0.0,
    jitter=0.0,
    rand_augment=1,
    rand_augment_magnitude=8.0,
)


def picture(channels=3, seed=0, size=SIZE):
    """Smooth and noisy, and with few very dark or light pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    planes = [90 + 60 * np.sin(5 * x + k) + 50 * y for k in range(channels)]
    noisy = np.stack(planes, -1) + rng.normal(0, 15, (size, size, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def numbers_of(view, name, sign=0.9, row=0.0, column=0.0):
    numbers = views.sample([view], batch=1, channels=3, seed=0, step=0).numpy()
    which = (list(rand_augment.OPERATIONS).index(name) + 0.5) / 16
    numbers[..., -4:] = which, sign, row, column
    return numbers[0]


def applied(image, name, *, view=VIEW, **numbers):
    (out,) = views.apply(numbers_of(view, name, **numbers), image, [view])
    return out.numpy()


@pytest.mark.parametrize("sign", [0.1, 0.9])
@pytest.mark.parametrize("magnitude", [1.0, 4.0, 9.0, 17.0])
@pytest.mark.parametrize("name", rand_augment.OPERATIONS)
def test_equals_plain_numpy(name, magnitude, sign):
    view = VIEW.scaled(rand_augment_magnitude=magnitude)
    where = dict(sign=sign, row=0.3, column=0.9)
    found = applied(picture(), name, view=view, **where)
    expected = plain_operations.operation(
        name, picture() / 255.0, magnitude, sign, 0.3, 0.9
    )
    np.testing.assert_allclose(found, expected, atol=2e-5)


def by_pillow(name, image, view):
    """PIL's own operation, on 8 bits; arguments from the paper's table."""
    share = view.rand_augment_magnitude / 10
    factor = 0.1 + 1.8 * share
    pixels = 100 * share * SIZE / 224

    def moved(*matrix):
        return image.transform(
            image.size, Image.AFFINE, matrix, Image.NEAREST, fillcolor=(128,) * 3
        )

    def cut():
        out, half = image.copy(), round(40 * share * SIZE / 224)
        corner = (12 - half, 12 - half, 11 + half, 11 + half)
        ImageDraw.Draw(out).rectangle(corner, (128,) * 3)
        return out

    return {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, int(4 * share)),
        "solarize": lambda: ImageOps.solarize(image, int(256 * share)),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "rotate": lambda: image.rotate(30 * share, fillcolor=(128,) * 3),
        # PIL reads from the middle of a pixel, which a shear about a corner moves.
        "shear_x": lambda: moved(1, 0.3 * share, -0.15 * share, 0, 1, 0),
        "shear_y": lambda: moved(1, 0, 0, 0.3 * share, 1, -0.15 * share),
        "translate_x": lambda: moved(1, 0, pixels, 0, 1, 0),
        "translate_y": lambda: moved(1, 0, 0, 0, 1, pixels),
        "cutout": cut,
    }[name]()


@pytest.mark.parametrize("name", sorted({*rand_augment.OPERATIONS} - {"solarize_add"}))
def test_equals_pillow(name):
    # PIL rounds what it computes to whole levels; in a blend it does so three times.
    rounded = name in ("auto_contrast", "color", "contrast", "brightness", "sharpness")
    image = Image.fromarray(picture())
    expected = np.asarray(by_pillow(name, image, VIEW), np.float64)
    found = applied(picture(), name, row=0.5, column=0.5) * 255.0
    difference = np.abs(found - expected)
    assert difference.max() < (3.0 if rounded else 0.01)
    assert np.abs(expected - picture()).mean() > 1.5  # It does something.


def test_operations_follow_one_another():
    view = VIEW.scaled(rand_augment=3)
    numbers = views.sample([view], batch=20, channels=3, seed=1, step=0)
    for row in numbers.numpy():
        (found,) = views.apply(row, picture(), [view])
        expected = plain_operations.view(picture() / 255.0, row[0, -12:], view)
        # Nearest pixels and levels, of values that differ by rounding.
        assert np.mean(np.abs(found - expected) > 1e-4) < 0.02


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_depth_and_number_of_channels(channels, dtype):
    white = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    image = (picture(channels) / 255.0 * white).astype(dtype)
    for name in rand_augment.OPERATIONS:
        found = applied(image, name)
        expected = plain_operations.operation(name, image / white, 8.0)
        # 16 bits between two of the 256 levels may round to either.
        assert np.mean(np.abs(found - expected) > 2e-5) < 2e-3, name
    assert ("color of rand_augment" in views.skipped_steps([VIEW], channels)) == (
        channels != 3
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_and_flat_images(size):
    view = VIEW.scaled(size)
    for name in rand_augment.OPERATIONS:
        image = np.full((size, size, 3), 77, np.uint8)
        expected = plain_operations.operation(name, image / 255.0, 8.0)
        np.testing.assert_allclose(applied(image, name, view=view), expected, atol=1e-5)


def test_a_batch_is_as_its_images():
    view = VIEW.scaled(rand_augment=2, jitter=0.5, brightness=0.4)
    images = np.stack([picture(seed=i) for i in range(30)])
    numbers = views.sample([view], batch=30, channels=3, seed=4, step=0)
    packed = views.pack(numbers, [view], 3)
    (found,) = batched.finish(
        batched.geometry(images, packed, [view]), packed, [view], 255.0
    )
    singly = [views.apply(n, x, [view])[0] for n, x in zip(numbers, images)]
    assert np.mean(np.abs(found - np.stack(singly)) > 1e-4) < 2e-3


def test_it_comes_before_the_other_steps_and_after_the_clip():
    """Of a bicubic resize, whose overshoot must not widen an automatic contrast."""
    view = VIEW.scaled(
        2 * SIZE, resize="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)
    )
    board = np.repeat(255 * (np.indices((SIZE, SIZE)).sum(0) % 2)[..., None], 3, -1)
    board = board.astype(np.uint8)
    found = applied(board, "invert", view=view)
    plain = view.scaled(rand_augment=0, mean=None, std=None)
    (resized,) = views.apply(numbers_of(view, "invert")[:, :-4], board, [plain])
    assert resized.numpy().max() == 1.0
    expected = (1 - resized.numpy() - view.mean) / np.float32(0.2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_draws():
    view = VIEW.scaled(rand_augment=2)
    numbers = views.sample([view], batch=6000, channels=3, seed=1, step=0)
    u = views.split(numbers, [view])["rand_augment"].numpy()[:, 0]
    assert u.shape == (6000, 8)
    for column in u.T:
        assert stats.kstest(column, stats.uniform.cdf).pvalue > 1e-4
    packed = rand_augment.pack(u[:, np.newaxis], [view]).numpy().reshape(-1, 4)
    counts = np.bincount(packed[:, 0].astype(int), minlength=16)
    assert len(counts) == 16 and stats.chisquare(counts).pvalue > 1e-4
    turns = packed[packed[:, 0] == 3, 1]  # Rotations.
    np.testing.assert_allclose(np.abs(turns), np.radians(24.0), rtol=1e-5)
    assert stats.binomtest(int((turns < 0).sum()), len(turns)).pvalue > 1e-4


def test_where_it_is_off_no_number_of_a_recipe_changes():
    """And in a recipe of which one view has it, each view takes its own."""
    plain = VIEW.scaled(rand_augment=0)
    numbers = views.sample([plain], batch=3, channels=3, seed=1, step=0)
    assert numbers.shape[-1] == 2 * plain.crop_tries + 19
    assert "rand_augment" not in views.split(numbers, [plain])
    recipe = [plain, VIEW.scaled(rand_augment=2)]
    numbers = views.sample(recipe, batch=1, channels=3, seed=1, step=0).numpy()
    first, second = views.apply(numbers[0], picture(), recipe)
    np.testing.assert_allclose(first, picture() / 255.0, atol=1e-6)
    assert np.abs(second - first).mean() > 0.01

"""The scripts that print speeds and accuracies: their parts, and that they run."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import views_in_two_places
from tfssl.data import pipeline, sources
from tfssl.data.views import recipes


def images(count, seed=0):
    """Noise, uint8 `(count, 32, 32, 3)`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folders of classes, with twelve JPEG files each."""
    root = tmp_path_factory.mktemp("images")
    for number, image in enumerate(images(24)):
        place = root / ("cat", "dog")[number % 2] / f"{number // 2}.jpg"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(place)
    return root


@pytest.fixture
def floats():
    """A source of encoded images, as floats."""
    files = [tf.io.encode_png(image).numpy() for image in images(4)]
    given = dict(channels=3, dtype="uint8", labels=None, class_names=None)
    source = sources.BytesSource(files, name="noise", **given)
    return views_in_two_places.AsFloats(source)


def test_images_as_floats_stay_so_in_a_pipeline(floats):
    recipe = recipes.get("simclr_cifar10").scaled(16, mean=None, std=None)
    batches = pipeline.multiview(floats, recipe, batch_size=4, augment_on="device")
    (batch,) = batches.take(1)
    assert batch["views"]["view_0"].dtype == tf.float32
    assert isinstance(floats.ready(), views_in_two_places.AsFloats)


def test_images_as_floats_are_those_of_the_source(floats):
    decoded = floats.decode(floats.read(tf.constant(1)))
    np.testing.assert_allclose(decoded, images(4)[1] / 255, rtol=1e-6)

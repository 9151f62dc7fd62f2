"""Images that the tests of several sources are made of."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image


@pytest.fixture
def pixels():
    """`pixels(source, index)`: one decoded image."""
    return _pixels


@pytest.fixture
def make_images():
    """`make_images(count, ...)`: random images, the same for the same arguments."""
    return _images


@pytest.fixture
def write_image():
    """`write_image(path, image, kind)`: a file that PIL encodes."""
    return _write


@pytest.fixture
def write_tree():
    """`write_tree(root)`: a small folder of class folders."""
    return _tree


def _pixels(source, index):
    return source.decode(source.read(tf.constant(index, tf.int64))).numpy()


def _images(count=6, channels=3, size=8, dtype=np.uint8):
    rng = np.random.default_rng(count)
    shape = (count, size, size, channels)
    if dtype in (np.float32, np.float64):
        return rng.uniform(size=shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def _write(path, image, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, kind)
    return path


def _tree(root):
    """Class folders: the files that count, sorted, and their images."""
    images = _images(4)
    names = ["b_cat/deep/z.PNG", "a_dog/1.png", "b_cat/2.png", "b_cat/10.png"]
    for name, image in zip(names, images):
        _write(root / name, image)
    found = dict(zip([str(root / name) for name in names], images))
    return dict(sorted(found.items()))

import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from tfssl.data import sources
from tfssl.data.sources import digits


def test_digits_are_cut_into_balanced_parts(pixels):
    train, test, whole = (digits.digits(s) for s in ("train", "test", "all"))
    assert (train.num_images, test.num_images, whole.num_images) == (1297, 500, 1797)
    assert train.class_names == tuple("0123456789")
    shares = np.bincount(whole.labels) / 1797
    for part in (train, test):
        assert part.channels == 1 and part.dtype == "uint8" and part.max_value == 255
        assert part.image_size == (32, 32) and not part.encoded
        counts = np.bincount(part.labels, minlength=10)
        # At most one image away from an exact share.
        assert np.abs(counts - shares * part.num_images).max() <= 1.5
    images = [pixels(part, i).tobytes() for part in (train, test) for i in range(400)]
    assert len(set(images)) > 750  # No part repeats the other.
    opened = sources.open_source("digits")
    assert opened.fingerprint() == train.fingerprint() != test.fingerprint()
    assert opened.describe(17) == "digits/train[17]"


def test_digits_are_scikit_learns_enlarged(pixels):
    whole = sources.open_source("digits", split="all")
    data = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(whole.labels, data.target)
    for i in (0, 5, 1700):
        image = pixels(whole, i)
        assert image.shape == (32, 32, 1) and image.dtype == np.uint8
        # The mean of each 4 x 4 block is about the pixel it was made from.
        blocks = image.reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
        small = data.images[i]
        assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97
        assert abs(blocks.mean() - small.mean()) < 0.5


def test_digits_have_three_splits():
    with pytest.raises(ValueError, match="split='dev' received, expected one of train"):
        sources.open_source("digits", split="dev")

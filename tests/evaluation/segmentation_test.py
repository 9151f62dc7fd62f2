import numpy as np
import pytest

from tfssl.evaluation import segmentation


def slow(predicted, labels, classes):
    """The IoU of each class by sets of pixels."""
    found = []
    for one in range(classes):
        counted = labels != 255
        true = set(np.flatnonzero((labels == one) & counted))
        said = set(np.flatnonzero((predicted == one) & counted))
        found.append(len(true & said) / len(true | said) if true | said else np.nan)
    return np.array(found)


def test_iou_is_that_of_sets_of_pixels_over_all_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=600)
    labels[rng.uniform(size=600) < 0.2] = 255
    predicted = np.where(rng.uniform(size=600) < 0.5, labels % 5, 4)
    predicted[labels == 255] = 3
    expected = slow(predicted, labels, 6)
    assert np.isnan(expected[5])
    total = sum(
        segmentation.confusion(p.reshape(10, 20), t.reshape(10, 20), 6)
        for p, t in zip(np.split(predicted, 3), np.split(labels, 3))
    )
    found = segmentation.scores(total)
    np.testing.assert_allclose(found.iou, expected)
    assert found.mean_iou == pytest.approx(np.nanmean(expected))
    known = labels != 255
    right = (predicted == labels)[known]
    assert found.pixel_accuracy == pytest.approx(right.mean())
    assert found.pixels.sum() == known.sum() == found.confusion.sum()


def test_a_class_that_is_said_and_never_there_counts_as_0():
    found = segmentation.scores(segmentation.confusion([0, 2], [0, 0], 3))
    np.testing.assert_array_equal(found.iou, [0.5, np.nan, 0])
    assert found.mean_iou == 0.25


def test_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\) and labels of shape \(3,\)"):
        segmentation.confusion([0, 1], [0, 1, 1], 2)
    with pytest.raises(ValueError, match="from 0 to 2 received, .* are 0 to 1"):
        segmentation.confusion([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="None of the pixels has a class"):
        segmentation.scores(segmentation.confusion([0], [255], 2))


def test_images_at_once_are_bounded_by_their_pixels():
    assert segmentation.images_at_once(256, 8, 2) == 256
    # Of ADE20K's classes half a GiB in float32.
    found = segmentation.images_at_once(256, 224, 150)
    assert found == 17 and found * 224**2 * 150 * 4 < 2**29
    assert segmentation.images_at_once(256, 4096, 256) == 1

import numpy as np
import pytest
import tensorflow as tf

from tfssl import data
from tfssl.data import sources


def test_subset_numbers_anew(tmp_path, pixels, make_images, write_tree):
    images = make_images()
    source = sources.open_source((images, np.arange(6) * 10))
    part = source.subset([4, 1, 5])
    assert part.num_images == 3 and part.labels.tolist() == [40, 10, 50]
    for place, i in enumerate([4, 1, 5]):
        np.testing.assert_array_equal(pixels(part, place), images[i])
    assert part.describe(0) == "array[4]"
    nested = part.subset([2], "last")
    assert nested.name == "last" and nested.labels.tolist() == [50]
    np.testing.assert_array_equal(pixels(nested, 0), images[5])
    prints = {source.fingerprint(), part.fingerprint(), nested.fingerprint()}
    assert len(prints) == 3
    files = sources.open_source(str(tmp_path)) if write_tree(tmp_path) else None
    some = files.subset([3, 0])
    assert some.describe(0) == files.describe(3) and some.encoded
    np.testing.assert_array_equal(pixels(some, 1), pixels(files, 0))


@pytest.mark.parametrize("indices", [[0, 6], [-1, 2]])
def test_subset_stays_inside(indices, make_images):
    with pytest.raises(ValueError, match="which has images 0 to 5"):
        sources.open_source(make_images()).subset(indices)


def test_subset_of_nothing(make_images):
    with pytest.raises(ValueError, match="holds no image"):
        sources.open_source(make_images()).subset([])


def test_every_label_has_a_name_where_there_are_names(make_images):
    source = sources.ArraySource(make_images(2), [-1, 1], class_names=("ant", "bee"))
    assert source.labels.tolist() == [-1, 1]
    with pytest.raises(ValueError, match="labels up to 2, but names of only 2 classes"):
        sources.ArraySource(make_images(2), [0, 2], class_names=("ant", "bee"))


class Own(sources.Source):
    """What the docstring asks of a subclass, with a `read` of one index alone."""

    def __init__(self, image_size=None):
        super().__init__(
            "own", 6, channels=3, dtype="uint8", labels=None, class_names=None,
            image_size=image_size,
        )  # fmt: skip

    def read(self, index):
        return tf.fill([8, 8, 3], tf.cast(10 * index, tf.uint8))

    def _fingerprint(self, digest):
        digest.update(b"own")


class OneByOne(Own):
    stacked = None


@pytest.mark.parametrize("source", [Own(), OneByOne((8, 8))])
def test_a_source_of_ones_own_reads_one_image_at_a_time(source):
    view = data.View(size=8, area=(1.0, 1.0), aspect=(1.0, 1.0), jitter=0.0)
    for part in (source, source.subset([1, 3, 4, 5])):
        batches = data.multiview(part, [view], batch_size=4, augment_on="host")
        batch = next(iter(batches))
        found = np.rint(255 * batch["views"]["view_0"][:, 0, 0, 0]).astype(int).tolist()
        numbers = np.array([0, 1, 2, 3, 4, 5] if part is source else [1, 3, 4, 5])
        assert found == (10 * numbers[batch["index"]]).tolist()
    assert source.fingerprint() != source.subset([1]).fingerprint()


def test_a_part_is_stacked_as_its_source(make_images):
    source = sources.open_source(make_images())
    part = source.subset([3, 1])
    np.testing.assert_array_equal(part.stacked([1, 0]), source.stacked([1, 3]))
    assert sources.open_source(make_images()).subset([1]).subset([0]).stacked
    assert OneByOne((8, 8)).subset([1]).stacked is None


def test_what_a_subclass_lacks_is_said():
    class Empty(sources.Source):
        def __init__(self):
            kinds = dict(channels=3, dtype="uint8", labels=None, class_names=None)
            super().__init__("mine", 2, **kinds)

    with pytest.raises(
        NotImplementedError,
        match=r"'mine' \(Empty\) lacks _fingerprint\(digest\), .*; define it, so that",
    ):
        Empty().fingerprint()
    with pytest.raises(NotImplementedError, match=r"lacks read\(index\), .*; define"):
        Empty().read(0)

import numpy as np
import pytest

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

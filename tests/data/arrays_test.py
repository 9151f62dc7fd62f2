import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import sources


@pytest.mark.parametrize("dtype, white", [("uint8", 255), ("uint16", 65535)])
def test_arrays_of_integers(dtype, white, pixels, make_images):
    images = make_images(dtype=np.dtype(dtype).type)
    source = sources.open_source((images, [3, 1, 4, 1, 5, 9]))
    assert (source.num_images, source.channels) == (6, 3)
    assert source.dtype == dtype and source.max_value == white
    assert source.image_size == (8, 8) and source.random_access
    assert source.labels.dtype == np.int64 and source.labels.tolist()[5] == 9
    for i in range(6):
        np.testing.assert_array_equal(pixels(source, i), images[i])
    assert source.describe(2) == "array[2]"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_floats(dtype, pixels, make_images):
    images = make_images(dtype=dtype)
    source = sources.open_source(images)
    assert source.dtype == "float32" and source.max_value == 1.0
    assert source.labels is None
    np.testing.assert_array_equal(pixels(source, 1), images[1].astype(np.float32))


def test_arrays_without_a_channel_axis_and_of_many_channels(pixels, make_images):
    assert sources.open_source(np.zeros((2, 5, 4), np.uint8)).channels == 1
    source = sources.open_source(make_images(channels=13))
    assert source.channels == 13 and pixels(source, 0).shape == (8, 8, 13)


def test_a_source_is_read_inside_of_a_graph(pixels, make_images):
    images = make_images()
    source = sources.open_source(images)
    dataset = tf.data.Dataset.range(6).map(source.read)
    np.testing.assert_array_equal(np.stack(list(dataset)), images)
    np.testing.assert_array_equal(pixels(source, 4), images[4])


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\)"),
        (np.zeros((4, 0, 5, 3), np.uint8), "none of them 0"),
        (np.zeros((0, 5, 5, 3), np.uint8), "holds no image"),
        (np.zeros((2, 5, 5, 3), np.int32), "dtype int32"),
        (np.full((2, 5, 5, 3), 255.0), "from 255 to 255"),
        (np.full((2, 5, 5, 3), np.nan), "values in"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [1, 2, 3]), r"labels of shape \(3,\)"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [[1], [2]]), r"labels of shape \(2, 1\)"),
        ([1, 2], "data of type list"),
        (None, "data of type NoneType"),
    ],
)
def test_bad_arrays(data, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(data)

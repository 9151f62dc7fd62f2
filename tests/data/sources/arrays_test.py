import copy
import re

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
        (
            (np.zeros((2, 5, 5, 3), np.uint8), np.array([[9], [0]])),
            r"give one per image: labels\[:, 0\], not a list of one each\.$",
        ),
        ((np.zeros((2, 5, 5, 3), np.uint8), np.eye(2)), "of one-hot labels.*argmax"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [1, np.nan]), "the label nan of image 1"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [1, 0.9]), "the label 0.9 of image 1"),
        ((np.zeros((2, 5, 5, 3), np.uint8), ["a", "b"]), "'a', ….*number the classes"),
        (
            (np.zeros((2, 5, 5, 3), np.uint8), np.array([2**63 + 9, 0], np.uint64)),
            "label 922337203685477581",
        ),
        (np.full((2, 5, 5, 3), 255.0, ">f4"), "from 255 to 255"),
        (np.full((2, 5, 5, 3), np.nan, ">f4"), "values in"),
        (np.full((2, 5, 5, 3), 2.0, ">f8"), "from 2 to 2"),
        ([1, 2], "data of type list"),
        (None, "data of type NoneType"),
    ],
)
def test_bad_arrays(data, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(data)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">u2"])
def test_other_byte_orders_are_the_same_values(dtype, pixels):
    images = np.arange(2 * 4 * 4).reshape(2, 4, 4, 1) / (1 if dtype == ">u2" else 32)
    source = sources.open_source(images.astype(dtype))
    np.testing.assert_array_equal(pixels(source, 1), images[1].astype(dtype))


def test_whole_numbers_of_any_dtype_are_labels(make_images):
    for dtype in (np.uint64, np.int8, np.float32, ">i4"):
        labels = np.array([0, 1, 2, 3, 4, 5], dtype)
        assert sources.open_source((make_images(), labels)).labels.tolist() == [*labels]


@pytest.mark.parametrize(
    "shape, message",
    [
        ((8, 3, 32, 32), "taken as 3 rows of 32 pixels with 32 channels.*moveaxis"),
        ((8, 1, 28, 28), "taken as 1 rows of 28 pixels with 28 channels"),
        ((32, 32, 3), "taken as 32 grey images of 32 x 3 pixels.*np.newaxis"),
        ((8, 32, 32, 3), None),
        ((8, 32, 32, 13), None),
        ((8, 32, 32), None),
    ],
)
def test_shapes_that_look_like_another_layout_are_said(shape, message, caplog):
    with caplog.at_level("WARNING", "absl"):
        sources.open_source(np.zeros(shape, np.uint8))
    assert len(caplog.messages) == (message is not None)
    if message:
        assert re.search(message, caplog.text)


@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_images_are_hashed_once_by_each_source(kind, make_images, monkeypatch):
    images = make_images()
    calls = []
    if kind == "array":
        hold = lambda: sources.ArraySource(images)  # noqa: E731
    else:
        files = [tf.io.encode_png(image).numpy() for image in images]
        hold = lambda: sources.BytesSource(  # noqa: E731
            files,
            name="png",
            channels=3,
            dtype="uint8",
            labels=None,
            class_names=None,
        )
    plain = type(hold())._fingerprint

    def counted(self, digest):
        calls.append(self)
        plain(self, digest)

    monkeypatch.setattr(type(hold()), "_fingerprint", counted)
    source = hold()
    other = copy.copy(source)
    first = source.identity()
    assert other.identity() == first
    parts = {source.subset(range(n)).identity() for n in (2, 3)}
    assert source.identity() == first and len(parts) == 2 and len(calls) == 1
    if kind == "array":
        images[0] = 255 - images[0]
    else:
        files[0] = files[1]
    assert hold().identity() != first

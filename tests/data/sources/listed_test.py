import os

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.classifiers import pictures, write_pictures
from tfssl import data
from tfssl.data.sources import listed


def read(source):
    return [
        source.decode(source.read(tf.constant(i, tf.int64))).numpy()
        for i in range(source.num_images)
    ]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_files_come_in_the_order_of_the_list(tmp_path):
    paths = write_pictures(tmp_path)[::-1]
    source = listed.listed(paths)
    assert [source.describe(i) for i in range(4)] == paths
    same(read(source), pictures()[::-1])
    assert listed.listed(paths[:1]).name == paths[0]
    assert listed.listed(paths, channels=1, bit_depth=16).dtype == "uint16"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_arrays_may_be_of_any_sizes(dtype):
    images = [image.astype(dtype) for image in pictures()]
    if "float" in dtype:
        images = [image / 255 for image in images]
    source = listed.listed(images)
    assert source.dtype == ("float32" if "float" in dtype else dtype)
    assert (source.num_images, source.channels, source.labels) == (4, 3, None)
    same(read(source), [image.astype(source.dtype) for image in images])
    preprocessing = data.Preprocessing(size=8, max_value=source.max_value)
    (batch,) = data.labeled(source, preprocessing, batch_size=4)
    expected = [preprocessing.apply(tf.constant(image)) for image in read(source)]
    same(batch["image"], expected)


def test_grey_arrays_have_one_channel():
    source = listed.listed([np.full((3, 5), 7, np.uint8), np.full((4, 2), 9, "uint8")])
    assert source.channels == 1
    same(read(source), [np.full((3, 5, 1), 7), np.full((4, 2, 1), 9)])


def test_the_fingerprint_is_that_of_the_pixels():
    one, other = listed.listed(pictures()), listed.listed(pictures())
    assert one.fingerprint() == other.fingerprint() == one.identity()
    changed = pictures()
    changed[2][0, 0, 0] += 1
    assert listed.listed(changed).fingerprint() != one.fingerprint()
    turned = [image.swapaxes(0, 1) for image in pictures(1)]
    flat = [turned[0].reshape(pictures(1)[0].shape)]
    assert listed.listed(turned).fingerprint() != listed.listed(flat).fingerprint()


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "An empty list of images received; give at least one"),
        (["a.png", np.zeros((2, 2, 3), np.uint8)], "paths and of other things rec"),
        ([np.zeros((2, 2, 3)), np.zeros((2, 2, 1))], "3 channels and of .* with 1 rec"),
        ([np.zeros((2, 2, 3), "uint8"), np.zeros((2, 2, 3))], "uint8 with 3 .*float64"),
        ([np.zeros((2, 2, 3), np.int64)], "dtype int64 received, expected uint8"),
        ([np.full((2, 2, 3), 2.0)], "Float images from 2 to 2 received"),
        ([np.zeros((2, 2, 3), "uint8"), np.zeros(4, "uint8")], r"\(4,\) .* place 1 of"),
        ([np.zeros((0, 2, 3), np.uint8)], "none of them 0"),
        (["{pipe}"], "is a pipe, a socket or a device; list image files only"),
    ],
)
def test_what_is_no_list_of_images_is_refused(tmp_path, images, message):
    pipe = str(tmp_path / "pipe.png")
    os.mkfifo(pipe)
    images = [pipe if isinstance(i, str) and i == "{pipe}" else i for i in images]
    with pytest.raises(ValueError, match=message):
        listed.listed(images)

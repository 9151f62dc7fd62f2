import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl import data, formats, models
from tfssl.tasks import predict, predicted_masks

NAMES = ("sky", "road", "tree")


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(1)
    network = models.resnet(18, width=1 / 16, stem="cifar", input_shape=(8, 8, 3))
    made = models.Segmenter(network, NAMES, image_size=8, width=16)
    made.head.get_layer("outputs").bias.assign([0.1, 0.2, 0.0])
    return formats.Encoder(made, data.Preprocessing(size=8, crop=0.875))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images of several sizes, two of one name in two folders, and no image."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, shape in (("a/x", (12, 20)), ("b/x", (9, 7)), ("b/y", (16, 16))):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(256, size=(*shape, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "b" / "z.png").write_bytes(b"no image")
    return folder


def test_a_mask_has_the_size_of_its_image(segmenter, folder, tmp_path):
    path = str(tmp_path / "segmenter.keras")
    formats.keras_file.save(segmenter.network, path, segmenter.preprocessing)
    out = str(tmp_path / "masks")
    given = dict(batch_size=2, max_bad_fraction=0.5, verbose=0)
    found = predict.predict(path, str(folder), out, **given)
    assert len(found) == 3 and found.class_names == NAMES
    assert len(found.unreadable) == 1 and "z.png" in found.unreadable[0]
    kept = predict.predict(segmenter, str(folder), **given)
    names = []
    for row, other in zip(found, kept):
        pixels = np.array(Image.open(os.path.join(folder, row.image)))
        assert row.mask.shape == pixels.shape[:2] and row.mask.dtype == np.uint8
        np.testing.assert_array_equal(row.mask, other.mask)
        # By hand: all of the image in the size of the network, and back.
        whole = data.Preprocessing(size=8).apply(tf.constant(pixels))[tf.newaxis]
        chances = np.array(segmenter.network.probabilities(whole))[0]
        back = tf.image.resize(chances, pixels.shape[:2], antialias=True)
        np.testing.assert_array_equal(row.mask, np.argmax(back, axis=-1))
        names.append(os.path.basename(row.image))
    assert names == ["x.png", "x.png", "y.png"]
    files = sorted(os.listdir(out))
    assert files == ["masks.csv", "x_000000.png", "x_000001.png", "y_000002.png"]
    written = np.array(Image.open(os.path.join(out, "x_000001.png")))
    np.testing.assert_array_equal(written, found[1].mask)
    with open(os.path.join(out, "masks.csv")) as lines:
        assert lines.read().splitlines()[1].endswith("x.png,x_000000.png")


def test_a_row_says_what_its_pixels_are():
    mask = predicted_masks.Mask("a.png", np.uint8([[1, 1], [1, 0]]), NAMES)
    assert str(mask) == "a.png: road 75 %, sky 25 %"


def test_arrays_have_numbers_for_names(segmenter, tmp_path):
    pixels = np.zeros((2, 10, 12, 3), np.uint8)
    out = str(tmp_path / "masks")
    found = predict.predict(segmenter, pixels, out, verbose=0)
    assert found[0].mask.shape == (10, 12)
    assert sorted(os.listdir(out)) == ["000000.png", "000001.png", "masks.csv"]


def test_what_cannot_work_is_refused_at_the_start(segmenter, tmp_path):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    for given, message in (
        (dict(out=str(tmp_path / "a.csv")), "a.csv' received, expected a folder"),
        (dict(top=2), "top=2 received for a segmenter"),
        (dict(threshold=0.5), "threshold=0.5 received for a segmenter"),
    ):
        with pytest.raises(ValueError, match=message):
            predict.predict(segmenter, pixels, verbose=0, **given)
    assert not os.listdir(tmp_path)


def test_a_segmenter_that_diverged_says_so(segmenter):
    config = keras.saving.serialize_keras_object(segmenter.network)
    network = keras.saving.deserialize_keras_object(config)
    network.head.get_layer("outputs").bias.assign([np.nan] * 3)
    other = formats.Encoder(network, data.Preprocessing(size=8))
    with pytest.raises(ValueError, match="NaN or infinity for 2 of 2 images"):
        predict.predict(other, np.zeros((2, 8, 8, 3), np.uint8), verbose=0)

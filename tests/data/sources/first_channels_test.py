"""What is seen of images whose further channels are left out."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import data
from tfssl.data import sources
from tfssl.data.sources import first_channels
from tfssl.data.views import recipes

PIXELS = np.random.default_rng(0).integers(256, size=(6, 8, 8, 5), dtype=np.uint8)
LABELS = np.arange(6) % 2


def _seen(source):
    made = data.Preprocessing(size=8, channels=source.channels, max_value=255)
    (batch,) = data.labeled(source, made, batch_size=6)
    return batch["image"], batch["label"]


@pytest.mark.parametrize("in_sequence", (False, True))
def test_they_are_the_first_channels_of_the_same_images(in_sequence):
    whole = sources.ArraySource(PIXELS, LABELS, name="five")
    if in_sequence:
        content = {"image": PIXELS, "label": LABELS}
        whole = data.open_source(tf.data.Dataset.from_tensor_slices(content))
    few = first_channels.of(whole, 3)
    assert (few.channels, few.num_images, few.dtype) == (3, 6, "uint8")
    assert few.describe(2) == whole.describe(2)
    assert few.identity() not in (whole.identity(), first_channels.of(whole, 2))
    for source in (few, few.subset(np.arange(6))):
        images, labels = _seen(source)
        np.testing.assert_allclose(images, PIXELS[..., :3] / 255, atol=1e-6)
        np.testing.assert_array_equal(labels, LABELS)


def test_windows_and_views_are_of_them():
    few = first_channels.of(sources.ArraySource(PIXELS, name="five"), 3)
    window, _ = few.decode_window(few.read(0), lambda *_: tf.zeros((1, 4), tf.int32))
    np.testing.assert_array_equal(window, PIXELS[0, ..., :3])
    recipe = recipes.Recipe([data.View(size=4)], "small")
    batch = next(iter(data.multiview(few, recipe, batch_size=2, seed=0)))
    assert batch["views"]["view_0"].shape == (2, 4, 4, 3)


def test_others_are_returned_or_refused(tmp_path):
    whole = sources.ArraySource(PIXELS, name="five")
    assert first_channels.of(whole, 5) is whole
    with pytest.raises(ValueError, match="five has images of 5 channel.*expected 6"):
        first_channels.of(whole, 6)
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(PIXELS[0, ..., :3]).numpy())
    with pytest.raises(ValueError, match="3 channel.*, expected 1, or more behind"):
        first_channels.of(data.open_source(str(tmp_path)), 1)

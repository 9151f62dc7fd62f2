import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import sources


@pytest.mark.parametrize("form", ["images", "pairs", "dicts"])
def test_datasets_of_the_user(form, make_images):
    images, labels = make_images(), np.arange(6) % 4
    data = {
        "images": images,
        "pairs": (images, labels),
        "dicts": {"image": images, "label": labels, "id": labels},
    }[form]
    source = sources.open_source(tf.data.Dataset.from_tensor_slices(data))
    assert source.num_images == 6 and source.channels == 3
    assert source.image_size == (8, 8) and not source.random_access
    for place, (i, image) in enumerate(source.stream()):
        assert i == place
        np.testing.assert_array_equal(image, images[place])
    if form == "images":
        assert source.labels is None
    else:
        np.testing.assert_array_equal(source.labels, labels)
        assert source.labels.dtype == np.int64
    unlabelled = sources.open_source(
        tf.data.Dataset.from_tensor_slices(data), labels="none"
    )
    assert unlabelled.labels is None


def test_datasets_of_encoded_files(make_images):
    file = io.BytesIO()
    Image.fromarray(make_images(1)[0]).save(file, "PNG")
    dataset = tf.data.Dataset.from_tensor_slices([file.getvalue()] * 3)
    source = sources.open_source(dataset)
    assert source.encoded and source.channels == 3 and source.num_images == 3
    for _, raw in source.stream():
        np.testing.assert_array_equal(source.decode(raw), make_images(1)[0])


def test_datasets_that_cannot_be_used(make_images):
    images = tf.data.Dataset.from_tensor_slices(make_images())
    with pytest.raises(ValueError, match="repeats for ever"):
        sources.open_source(images.repeat())
    with pytest.raises(ValueError, match="dtype int32"):
        sources.open_source(images.map(lambda x: tf.cast(x, tf.int32)))
    with pytest.raises(ValueError, match="known channels"):
        sources.open_source(images.batch(2))
    with pytest.raises(ValueError, match="expected images"):
        sources.open_source(images.map(lambda x: {"picture": x}))
    with pytest.raises(ValueError, match="holds no image"):
        sources.open_source(images.take(0))
    source = sources.open_source(images)
    with pytest.raises(ValueError, match="cannot be cut into parts"):
        sources.holdout(source)

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import pipeline, sources, specs


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


def test_parts_of_a_dataset(make_images):
    images, labels = make_images(), np.arange(6) % 3 + 5
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    source = sources.open_source(dataset)
    part = source.subset([1, 2, 5])
    assert part.num_images == 3 and not part.random_access
    np.testing.assert_array_equal(part.labels, labels[[1, 2, 5]])
    nested = part.subset([0, 2], "last")
    for whole, wanted in ((part, [1, 2, 5]), (nested, [1, 5])):
        found = list(whole.stream())
        assert [int(i) for i, _ in found] == list(range(len(wanted)))
        for (_, image), index in zip(found, wanted):
            np.testing.assert_array_equal(image, images[index])
    assert nested.describe(1) == source.describe(5)
    assert part.fingerprint() != source.fingerprint() != nested.fingerprint()
    unlabelled = tf.data.Dataset.from_tensor_slices(images)
    assert sources.open_source(unlabelled).identity() == source.identity()
    others = tf.data.Dataset.from_tensor_slices(images[::-1])
    assert sources.open_source(others).identity() != source.identity()
    assert part.identity() != source.identity() != nested.identity()
    for indices in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match="takes ascending indices"):
            source.subset(indices)
    with pytest.raises(ValueError, match="Indices from 0 to 6"):
        source.subset([0, 6])
    train, validation = sources.holdout(source, fraction=0.5)
    seen = [image.numpy() for part in (train, validation) for _, image in part.stream()]
    assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in images)


def test_training_batches_of_a_part_carry_its_own_numbers(make_images):
    images, labels = make_images(), np.arange(6)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    part = sources.open_source(dataset).subset([0, 3, 4, 5])
    view = specs.View(size=8, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0)
    stream = pipeline.multiview(part, [view], batch_size=2, with_labels=True)
    seen = set()
    for batch in stream.take(4):  # Two epochs of two batches.
        for index, label, image in zip(
            batch["index"].numpy(), batch["label"].numpy(), batch["views"]["view_0"]
        ):
            assert label == [0, 3, 4, 5][index]
            np.testing.assert_allclose(image, images[label] / 255.0, atol=1e-6)
            seen.add(int(label))
    assert seen == {0, 3, 4, 5}

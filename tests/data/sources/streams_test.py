import io
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import bad_files, pipeline, preprocessing, sources
from tfssl.data.views import specs


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


def _numbered(count=64):
    """Image i is filled with 4 i and has the label i."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * 4
    images = np.broadcast_to(images, (count, 4, 4, 1))
    return tf.data.Dataset.from_tensor_slices((images, np.arange(count)))


def test_labels_belong_to_the_images():
    fixed = _numbered().shuffle(64, seed=3, reshuffle_each_iteration=False)
    source = sources.open_source(fixed)
    assert source.labels.tolist() != list(range(64))  # An order of its own, but fixed.
    path = preprocessing.Preprocessing(size=4, channels=1)
    for batch in pipeline.labeled(source, path, batch_size=20):
        for image, label, mask in zip(batch["image"], batch["label"], batch["mask"]):
            assert not mask or round(255 * float(image[0, 0, 0])) == 4 * int(label)


def test_an_order_that_differs_late_is_another_identity():
    first, second = (
        _numbered().concatenate(_numbered().shuffle(64, 3 + i, False)) for i in range(2)
    )
    one, same, other = (sources.open_source(d) for d in (first, first, second))
    assert one.identity() == same.identity() != other.identity()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.shuffle(64),
        lambda d: d.shuffle(64, seed=1),
        lambda d: d.shuffle(2, seed=1),
        lambda d: d.take(3).shuffle(3, seed=1),
        lambda d: d.filter(lambda *_: True).shuffle(64),
        lambda d: d.map(lambda x, y: (x, tf.random.shuffle([y, y + 1])[0])),
        lambda d: d.map(lambda x, y: (tf.image.random_flip_left_right(x + _RAMP), y)),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.labels,
        lambda s: next(iter(s.stream())),
        lambda s: s.fingerprint(),
        lambda s: sources.holdout(s, fraction=0.4),
    ],
)
def test_an_order_that_changes_is_refused(change, use):
    with pytest.raises(ValueError, match=r"tf\.data does not give .*without shuffle"):
        use(sources.open_source(change(_numbered())))


def test_a_dataset_that_can_be_passed_once_is_refused():
    passed_once = iter(np.zeros((4, 8, 8, 3), np.uint8))
    dataset = tf.data.Dataset.from_generator(
        lambda: passed_once, output_signature=tf.TensorSpec((8, 8, 3), tf.uint8)
    )
    with pytest.raises(ValueError, match="does not give the same images .*image 0 is"):
        sources.open_source(dataset).fingerprint()


_RAMP = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)


def test_a_later_pass_that_differs_stops():
    late = tf.Variable(False)  # Something outside of the dataset that changes.
    dataset = _numbered(8).map(lambda x, y: (x + tf.cast(late, tf.uint8), y))
    source = sources.open_source(dataset)
    assert len(list(source.stream())) == 8
    late.assign(True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not give the same"):
        list(source.stream())
    view = specs.View(size=8, jitter=0.0)
    batches = pipeline.multiview(source, [view], batch_size=4)
    with pytest.raises(ValueError, match=r"^tf.data does not give .* augments them it"):
        with bad_files.explained():
            list(batches.take(1))


def test_a_users_lack_of_order_is_overruled():
    options = tf.data.Options()
    options.deterministic = False
    dataset = _numbered().map(
        lambda x, y: tf.numpy_function(_slow, [x, y], (tf.uint8, tf.int64)),
        num_parallel_calls=8,
    )
    dataset = dataset.map(lambda x, y: (tf.ensure_shape(x, (4, 4, 1)), y))
    source = sources.open_source(dataset.with_options(options))
    assert source.labels.tolist() == list(range(64))
    assert [int(i) for i, _ in source.stream()] == list(range(64))


def _slow(image, label):
    time.sleep(0.002 * (label % 3 == 0))
    return image, label


def test_a_part_of_keras_loader_holds_other_images(tmp_path, make_images, write_image):
    for i, image in enumerate(make_images(12)):
        write_image(tmp_path / f"class_{i % 2}" / f"{i}.png", image)

    def loaded(**options):
        dataset = keras.utils.image_dataset_from_directory(
            tmp_path, image_size=(8, 8), verbose=False, **options
        )
        return dataset.unbatch()

    def scaled(**options):
        return loaded(**options).map(lambda x, y: (x / 255.0, y))

    with pytest.raises(ValueError, match="shuffle=False"):
        _ = sources.open_source(scaled()).labels
    with pytest.raises(ValueError, match=r"Float images from .* received \(tf\.data\)"):
        _ = sources.open_source(loaded(shuffle=False)).labels
    for mode in ("categorical", "binary"):
        with pytest.raises(ValueError, match="expected one whole number per image"):
            sources.open_source(loaded(shuffle=False, label_mode=mode))
    source = sources.open_source(scaled(shuffle=False))
    train, validation = sources.holdout(source, fraction=0.5)
    seen = [image.numpy() for part in (train, validation) for _, image in part.stream()]
    assert len({image.tobytes() for image in seen}) == 12
    assert sorted(train.labels) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("value", [-0.5, 1.01, np.nan, np.inf])
def test_floats_outside_of_0_and_1_are_refused(value, make_images):
    images = make_images(dtype=np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(images)
    assert sources.open_source(dataset).fingerprint()
    images[5, 7, 7, 2] = value
    source = sources.open_source(tf.data.Dataset.from_tensor_slices(images))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]; scale them"):
        source.stream()


@pytest.mark.parametrize(
    "label, message",
    [
        (np.eye(6), "TensorSpec.*of one-hot labels the argmax"),
        (np.zeros((6, 1), np.int64), r"TensorSpec.*of one in a list label\[0\]; "),
        (list("abcdef"), "expected one whole number per image"),
        ([0, 1, np.nan, 0, 1, 0], "has the label nan of image 2"),
        ([0, 1, 0.9, 0, 1, 0], "has the label 0.9 of image 2"),
        (np.full(6, 2**63 + 5, np.uint64), "has the label 9223372036854775813"),
    ],
)
def test_labels_of_other_kinds(label, message, make_images):
    dataset = tf.data.Dataset.from_tensor_slices((make_images(), label))
    with pytest.raises(ValueError, match=message):
        _ = sources.open_source(dataset).labels


def test_whole_numbers_of_any_dtype_are_labels(make_images):
    for dtype in (np.uint8, np.int32, np.uint64, np.float32, np.float64):
        label = np.array([0, 1, 2, 0, 1, 5], dtype)
        dataset = tf.data.Dataset.from_tensor_slices((make_images(), label))
        assert sources.open_source(dataset).labels.tolist() == [0, 1, 2, 0, 1, 5]


def test_a_dataset_that_fails_or_is_shorter_than_told(make_images):
    images = tf.data.Dataset.from_tensor_slices(make_images())
    broken = images.enumerate().map(
        lambda i, x: (
            tf.debugging.check_numerics(1.0 / tf.cast(4 - i, tf.float32), "4")
            * tf.zeros_like(x, tf.float32)
        )
    )
    with pytest.raises(ValueError, match="tf.data could not be read to its end"):
        sources.open_source(broken).stream()
    short = images.apply(tf.data.experimental.assert_cardinality(6)).take(5)
    short = short.apply(tf.data.experimental.assert_cardinality(6))
    with pytest.raises(ValueError, match="could not be read to its end"):
        sources.open_source(short).stream()


def test_channels_that_come_first_are_said(make_images, caplog):
    images = np.moveaxis(make_images(size=32), -1, 1)
    with caplog.at_level("WARNING", "absl"):
        sources.open_source(tf.data.Dataset.from_tensor_slices(images))
    assert "taken as 3 rows of 32 pixels with 32 channels" in caplog.text


def test_the_fingerprint_follows_content_and_order(make_images):
    images, labels = make_images(), np.arange(6)
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    made = [(images, labels), (changed, labels), (images[::-1], labels[::-1]),
            (images, labels[::-1]), images]  # fmt: skip
    found = [
        sources.open_source(tf.data.Dataset.from_tensor_slices(data)).fingerprint()
        for data in made
    ]
    assert len(set(found)) == len(made)
    again = tf.data.Dataset.from_tensor_slices((images, labels)).filter(lambda *_: True)
    assert sources.open_source(again).fingerprint() == found[0]

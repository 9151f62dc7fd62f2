import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import features


def small_encoder(dtype=None):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(4, 3, dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dropout(0.5, dtype=dtype),
            keras.layers.GlobalAveragePooling2D(dtype=dtype),
        ]
    )


def batches(images, labels, size):
    """Batches as data.labeled makes them: the last padded by repeats, masked."""
    index = np.arange(len(images))
    mask = np.ones(len(images), bool)
    extra = -len(images) % size
    rows = np.concatenate([index, np.zeros(extra, int)])
    mask = np.concatenate([mask, np.zeros(extra, bool)])
    return tf.data.Dataset.from_tensor_slices(
        {
            "image": images[rows],
            "label": labels[rows].astype(np.int64),
            "index": rows.astype(np.int64),
            "mask": mask,
        }
    ).batch(size)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(10, 6, 6, 3)).astype(np.float32)


def test_every_image_once_in_inference_mode_and_no_variable_moves(images):
    encoder = small_encoder()
    encoder.layers[1].moving_mean.assign([1.0, -2.0, 0.5, 3.0])
    before = [v.numpy() for v in encoder.variables]
    found = features.extract(encoder, batches(images, np.arange(10) % 3, 4))
    assert found.values.dtype == np.float32 and found.values.shape == (10, 4)
    np.testing.assert_array_equal(found.index, np.arange(10))
    np.testing.assert_array_equal(found.labels, np.arange(10) % 3)
    expected = encoder(images, training=False).numpy()
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    for old, new in zip(before, encoder.variables):
        np.testing.assert_array_equal(old, new.numpy())


def test_short_last_batch_and_missing_columns(images):
    dataset = tf.data.Dataset.from_tensor_slices({"image": images}).batch(4)
    found = features.extract(small_encoder(), dataset)
    assert len(found) == 10
    np.testing.assert_array_equal(found.labels, np.full(10, -1))
    np.testing.assert_array_equal(found.index, np.arange(10))


def test_a_first_batch_of_padding_alone_is_left_out(images):
    masks = np.arange(10) >= 4
    rows = {"image": images, "mask": masks}
    dataset = tf.data.Dataset.from_tensor_slices(rows).batch(4)
    found = features.extract(small_encoder(), dataset)
    np.testing.assert_array_equal(found.index, np.arange(4, 10))
    assert np.isfinite(found.values).all() and len(found.values) == 6


def test_one_trace_for_all_batches_and_calls(images):
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x

    encoder = keras.Sequential(
        [keras.Input((6, 6, 3)), Counting(), keras.layers.GlobalAveragePooling2D()]
    )
    traces.clear()
    extract = features.Extractor(encoder)
    dataset = tf.data.Dataset.from_tensor_slices({"image": images}).batch(4)
    first, second = extract(dataset), extract(dataset)
    np.testing.assert_array_equal(first.values, second.values)
    assert len(traces) == 1


def test_float32_features_under_bfloat16(images):
    encoder = small_encoder(keras.DTypePolicy("mixed_bfloat16"))
    found = features.extract(encoder, batches(images, np.zeros(10), 5))
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()


def test_raw_pixels_are_the_images(images):
    found = features.raw_pixels(batches(images, np.arange(10), 4))
    np.testing.assert_array_equal(found.values, images.reshape(10, -1))


def test_take_keeps_rows_together(images):
    found = features.raw_pixels(batches(images, np.arange(10) + 5, 4)).take([7, 2])
    np.testing.assert_array_equal(found.labels, [12, 7])
    np.testing.assert_array_equal(found.values, images[[7, 2]].reshape(2, -1))


def test_feature_maps_are_refused(images):
    encoder = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match='pooling="avg"'):
        features.extract(encoder, batches(images, np.zeros(10), 5))


def test_endless_and_empty_datasets_are_refused(images):
    dataset = batches(images, np.zeros(10), 5)
    with pytest.raises(ValueError, match="repeats forever"):
        features.extract(small_encoder(), dataset.repeat())
    with pytest.raises(ValueError, match="empty"):
        features.extract(small_encoder(), dataset.take(0))


@pytest.mark.parametrize("column", ["labels", "index"])
def test_columns_must_fit(column):
    columns = {"labels": np.zeros(3, np.int64), "index": np.zeros(3, np.int64)}
    columns[column] = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        features.Features(np.zeros((3, 2), np.float32), **columns)


def test_check_labeled_names_what_is_missing():
    def made(values, labels):
        return features.Features(values, np.array(labels), np.arange(len(labels)))

    good = np.ones((3, 2), np.float32)
    features.check_labeled(made(good, [0, 1, 2]), "The probe", "test")
    with pytest.raises(ValueError, match="The probe needs labels, but 1 of 3 test"):
        features.check_labeled(made(good, [0, -1, 2]), "The probe", "test")
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 3 test images hold NaN"):
        features.check_labeled(made(bad, [0, 1, 2]), "The probe", "test")
    with pytest.raises(ValueError, match="no test images"):
        features.check_labeled(made(good[:0], []), "The probe", "test")


def test_by_rows_computes_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(features, "_ROWS", 3)
    x, y = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    seen = []

    def summed(a, b):
        seen.append(len(a))
        return tf.reduce_sum(a * b, axis=1)

    found = features.by_rows(summed, x, y)
    np.testing.assert_allclose(found, (x * y).sum(axis=1), rtol=1e-5)
    assert seen == [3, 3, 1] and found.dtype == np.float32
    expected = tf.nn.softmax(x).numpy()
    assert features.by_rows(tf.nn.softmax, x, out=x) is x  # Without a copy.
    np.testing.assert_allclose(x, expected, rtol=1e-6)

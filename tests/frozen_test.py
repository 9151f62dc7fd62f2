import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tfssl import data, frozen
from tfssl.models import copying

SIZE = 12


def network(channels=3, size=SIZE):
    """Whatever training mode would change: batch norm, dropout."""
    inputs = keras.Input((size, size, channels))
    x = keras.layers.Conv2D(4, 3, name="map")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5)(x), name="old_one")


def pixels(size=SIZE):
    return np.random.default_rng(0).uniform(size=(3, size, size, 3)).astype("float32")


RANGES = {
    "0 to 1": dict(),
    "0 to 255": dict(std=1 / 255),
    "-1 to 1": dict(mean=0.5, std=0.5),
    "imagenet": dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}


@pytest.mark.parametrize("views", RANGES)
@pytest.mark.parametrize("own", RANGES)
def test_pixels_reach_the_teacher_in_its_own_range(views, own):
    """Whatever the student gets, the teacher gets what its preprocessing makes."""
    taken = data.Preprocessing(size=SIZE, **RANGES[own])
    given = data.Preprocessing(size=SIZE, **RANGES[views])
    teacher = frozen.Frozen(network(), taken, given)
    image = pixels()
    found = teacher.prepared(given.normalize(image))
    expected = taken.normalize(image)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-6)
    if views == own:
        np.testing.assert_array_equal(found, given.normalize(image))


@pytest.mark.parametrize("size", [8, 31])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_views_of_another_size_are_resized_with_antialiasing(size, method):
    taken = data.Preprocessing(size=SIZE, mean=0.5, std=0.5, resize=method)
    given = data.Preprocessing(size=size, std=1 / 255)
    teacher = frozen.Frozen(network(), taken, given)
    image = pixels(size)
    resized = tf.image.resize(image, [SIZE, SIZE], method, antialias=True)
    expected = (np.clip(resized, 0, 1) - 0.5) / 0.5
    found = tf.function(teacher.prepared, jit_compile=True)(255 * image)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_answers_as_in_inference_and_gives_no_gradient():
    inner = network()
    teacher = frozen.Frozen(inner, data.Preprocessing(size=SIZE))
    views = tf.constant(pixels())
    before = [np.array(v) for v in inner.variables]
    with tf.GradientTape() as tape:
        tape.watch(views)
        answers = teacher(views)
    np.testing.assert_array_equal(answers, inner(views, training=False))
    assert tape.gradient(answers, [views, *inner.trainable_variables]) == [None] * 7
    for old, variable in zip(before, inner.variables):
        np.testing.assert_array_equal(old, variable)
    assert teacher.follower and teacher.constant


def test_it_is_asked_for_a_feature_map_or_for_what_it_gives():
    inner = network()
    teacher = frozen.Frozen(inner, data.Preprocessing(size=SIZE))
    ask, shape = teacher.asked_for()
    assert shape == (None, 5)
    np.testing.assert_array_equal(ask(pixels()), inner(pixels()))
    ask, shape = teacher.asked_for("map")
    assert shape == (None, 10, 10, 4)
    np.testing.assert_array_equal(ask(pixels()), inner.get_layer("map")(pixels()))
    # A network that only has a `call` of its own says what it gives, too.
    own = frozen.Frozen(networks.own(), data.Preprocessing(size=8))
    assert own.asked_for()[1] == (None, 5)
    with pytest.raises(ValueError, match="'own' is no graph"):
        own.asked_for("map")


def test_pixels_stay_float32_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        teacher = frozen.Frozen(network(), data.Preprocessing(size=SIZE))
        assert teacher.prepared(pixels()).dtype == tf.float32
        assert teacher(pixels()).dtype == tf.float16  # As the network computes.
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_fingerprint_is_of_weights_and_pixels_not_of_names():
    first = network()
    made = data.Preprocessing(size=SIZE)
    print_ = frozen.Frozen(first, made).fingerprint()
    assert len(print_) == 16
    again = copying.copied(first, "a test")
    assert frozen.Frozen(again, made, name="other").fingerprint() == print_
    assert frozen.fingerprint(again, made) == print_
    assert frozen.fingerprint(again, data.Preprocessing(size=SIZE, crop=0.5)) == print_
    others = [
        data.Preprocessing(size=SIZE, mean=0.5),
        data.Preprocessing(size=8),
        data.Preprocessing(size=SIZE, resize="bicubic"),
    ]
    found = {print_, *(frozen.fingerprint(again, other) for other in others)}
    assert len(found) == 4
    statistics = again.non_trainable_variables[0]
    statistics.assign(statistics + 1e-3)
    assert frozen.fingerprint(again, made) not in found


def test_it_is_saved_whole(tmp_path):
    views = data.Preprocessing(size=SIZE, std=1 / 255)
    teacher = frozen.Frozen(network(), data.Preprocessing(size=SIZE, mean=0.5), views)
    inputs = keras.Input((SIZE, SIZE, 3))
    keras.Model(inputs, teacher(inputs)).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pixels()), teacher(pixels()))
    config = loaded.get_layer("teacher").get_config()
    assert config["views"] == views.get_config()


def test_what_cannot_teach_is_refused_in_one_sentence():
    made = data.Preprocessing(size=SIZE)
    with pytest.raises(
        ValueError, match="teacher='resnet18' received, expected a buil"
    ):
        frozen.Frozen("resnet18", made)
    with pytest.raises(ValueError, match="'old_one' has no preprocessing, so .*; pass"):
        frozen.Frozen(network(), None)
    with pytest.raises(
        ValueError, match=r"takes images of 3 channel\(s\), but the views have 1; open"
    ):
        frozen.Frozen(network(), made, data.Preprocessing(size=8, channels=1))

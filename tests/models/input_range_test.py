"""What values reach the weights of encoders that rescale their input themselves."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import data, methods, models
from tfssl.formats import keras_file
from tfssl.models import input_range
from tfssl.tasks import resolve

SHAPE = (32, 32, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
PLAIN = data.Preprocessing(size=32)
IMAGENET = data.Preprocessing(
    size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def images(preprocessing):
    return np.stack([preprocessing.apply(x) for x in tf.constant(PIXELS)])


def application(name, preprocessing=PLAIN, **arguments):
    name = f"keras.applications.{name}"
    return resolve.encoder(name, SHAPE, arguments, preprocessing)


def at_first_convolution(model, batch):
    convolution = next(x for x in model.layers if "Conv2D" in type(x).__name__)
    return keras.Model(model.inputs[0], convolution.input)(batch).numpy()


def features(model, batch):
    return np.asarray(model(batch, training=False))


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        # Fronts like theirs are among FRONTS below.
        pytest.param("EfficientNetB0", marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", marks=pytest.mark.slow),
    ],
)
def test_an_application_that_rescales_inside_sees_pixels(name):
    bare = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=SHAPE
    )
    expected = at_first_convolution(bare, PIXELS.astype("float32"))
    assert expected.std() > 0.25  # On images in [0, 1] it was 0.001 to 0.13.
    for preprocessing in (PLAIN, IMAGENET):
        encoder = application(name, preprocessing)
        seen = at_first_convolution(encoder, images(preprocessing))
        np.testing.assert_allclose(seen, expected, atol=2e-4)
        low, high = input_range.ends(encoder, preprocessing.mean, preprocessing.std)
        assert (low, high) == pytest.approx((0, 255), abs=1e-3)


def test_a_stem_inside_a_model_sees_pixels_too():
    """ConvNeXt keeps its first convolution in a Sequential."""
    bare = keras.applications.ConvNeXtTiny(
        weights=None, include_top=False, pooling="avg", input_shape=SHAPE
    )
    encoder = application("ConvNeXtTiny", IMAGENET)
    encoder.set_weights(bare.get_weights())
    np.testing.assert_allclose(
        features(encoder, images(IMAGENET)),
        features(bare, PIXELS.astype("float32")),
        atol=1e-3,
    )


@pytest.mark.filterwarnings("error:The structure of")
@pytest.mark.parametrize(
    "name",
    ["VGG16", pytest.param("ResNet50", marks=pytest.mark.slow), "MobileNetV2"],
)
def test_pretrained_weights_see_what_they_were_trained_on(name, tmp_path):
    builder = getattr(keras.applications, name)
    bare = builder(weights=None, include_top=False, pooling="avg", input_shape=SHAPE)
    path = str(tmp_path / "bare.weights.h5")
    bare.save_weights(path)
    encoder = application(name, IMAGENET, weights=path)
    prepare = sys.modules[builder.__module__].preprocess_input
    expected = features(bare, prepare(PIXELS.astype("float32")))
    found = features(encoder, images(IMAGENET))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    saved = keras_file.save(encoder, str(tmp_path / "encoder.keras"), IMAGENET)
    loaded, _ = keras_file.load(saved)
    np.testing.assert_array_equal(features(loaded, images(IMAGENET)), found)


def test_other_applications_and_our_encoders_stay_as_they_are():
    encoder = application("MobileNet", alpha=0.25)
    assert encoder.layers[1].name == "conv1"
    assert input_range.ends(encoder, 0.5, 0.25) == (-2.0, 2.0)
    encoder = application("MobileNetV3Small", include_preprocessing=False)
    assert input_range.ends(encoder) == (0.0, 1.0)
    ours = resolve.encoder("resnet18", SHAPE, {"width": 0.25}, PLAIN)
    assert type(ours).__name__ == "ResNet" and input_range.white(ours) == 1


def test_views_that_black_and_white_do_not_differ_in_are_plain():
    for views in ({"ab": (1, 2), "L": (0,)}, {"ab": (1, 2)}):
        network = models.encoder(
            "branches",
            input_shape=(8, 8, 3),
            of="resnet18",
            width=1 / 32,
            stem="cifar",
            views=views,
        )
        assert input_range.white(network) == 1


def test_a_model_without_a_graph_is_taken_as_it_is():
    class Own(keras.Model):
        def call(self, images):
            return images / 255.0

    assert input_range.white(Own()) == 1
    assert input_range.ends(Own(), IMAGENET.mean, IMAGENET.std) == pytest.approx(
        (-0.485 / 0.229, 0.594 / 0.225)
    )


def test_pretrained_weights_keep_their_preprocessing():
    with pytest.raises(ValueError, match="weights='imagenet', which expect that"):
        application("EfficientNetV2B0", weights="imagenet", include_preprocessing=False)


def network(front=None, dtype="float32", stem=None):
    """A user's small model: `front` of the images, then weights."""
    inputs = keras.Input(SHAPE, dtype=dtype)
    x = front(inputs) if front else inputs
    x = (stem or keras.layers.Conv2D(4, 3))(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="mine")


def normalization(mean, variance):
    return keras.layers.Normalization(mean=mean, variance=variance)


FRONTS = {
    "nothing": (None, 1),
    "rescaling": (keras.layers.Rescaling(1 / 255), 255),
    "to -1 and 1": (keras.layers.Rescaling(1 / 127.5, offset=-1), 255),
    "division": (lambda x: x / 255.0, 255),
    "statistics of pixels": (normalization([120.0] * 3, [3600.0] * 3), 255),
    "after a resize": (
        lambda x: keras.layers.Rescaling(1 / 255)(keras.layers.Resizing(16, 16)(x)),
        255,
    ),
    "a model": (keras.Sequential([keras.layers.Rescaling(1 / 255)]), 255),
    "16 bits": (keras.layers.Rescaling(1 / 65535), 65535),
    "[0, 1] to [-1, 1]": (keras.layers.Rescaling(2, offset=-1), 1),
    "statistics of [0, 1]": (normalization([0.5] * 3, [0.06] * 3), 1),
    "our own": (lambda x: x * 255.0 / 255.0, 1),
}


@pytest.mark.parametrize("front, white", FRONTS.values(), ids=FRONTS)
def test_the_range_that_a_model_takes_is_told_by_its_first_layers(front, white):
    assert input_range.white(network(front)) == white


def test_the_range_is_found_where_the_weights_are_in_a_model_of_their_own():
    inner = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3)]
    assert input_range.white(network(stem=keras.Sequential(inner))) == 255
    sequential = [keras.Input(SHAPE), *inner, keras.layers.GlobalAveragePooling2D()]
    assert input_range.white(keras.Sequential(sequential)) == 255
    frozen = network(keras.layers.Rescaling(1 / 255))
    frozen.trainable = False
    assert input_range.white(frozen) == 255
    norm_first = network(stem=keras.layers.BatchNormalization())
    assert input_range.white(norm_first) == 1


@pytest.mark.parametrize("preprocessing", [PLAIN, IMAGENET], ids=["plain", "imagenet"])
def test_a_users_model_gets_its_pixels(preprocessing, tmp_path):
    mine = network(keras.layers.Rescaling(1 / 255))
    expected = features(mine, PIXELS)
    mine.save(tmp_path / "mine.keras")
    given = (mine, lambda shape: mine, str(tmp_path / "mine.keras"))
    for encoder in given:
        encoder = resolve.encoder(encoder, SHAPE, None, preprocessing)
        assert encoder.name == "mine"
        found = features(encoder, images(preprocessing))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        # The file that we write of it needs no further layer.
        path = keras_file.save(encoder, str(tmp_path / "ours.keras"), preprocessing)
        again = resolve.encoder(path, SHAPE, None, preprocessing)
        assert len(again.layers) == len(encoder.layers)
        np.testing.assert_array_equal(features(again, images(preprocessing)), found)


def test_a_model_of_whole_numbers_gets_whole_numbers():
    cast = lambda x: keras.ops.cast(x, "float32") / 255.0  # noqa: E731
    mine = network(cast, dtype="uint8")
    encoder = resolve.encoder(mine, SHAPE, None, IMAGENET)
    np.testing.assert_array_equal(
        features(encoder, images(IMAGENET)), features(mine, PIXELS)
    )
    # Beyond black and white, where a bicubic resize may lead, nothing wraps around.
    bright = features(encoder, np.full((1, *SHAPE), 9.0, "float32"))
    white = features(mine, np.full((1, *SHAPE), 255, np.uint8))
    np.testing.assert_array_equal(bright, white)


def test_a_method_says_that_its_encoder_sees_no_pixels(caplog):
    methods.SimCLR(network(keras.layers.Rescaling(1 / 255)))
    assert "mine takes pixels from 0 to 255" in caplog.text
    caplog.clear()
    methods.SimCLR(network())
    assert not caplog.text


def test_a_file_for_other_normalisation_is_said(tmp_path, caplog):
    path = keras_file.save(network(), str(tmp_path / "mine.keras"), IMAGENET)
    resolve.encoder(path, SHAPE, None, IMAGENET)
    assert not caplog.text
    resolve.encoder(path, SHAPE, None, PLAIN)
    assert "was trained on images normalised by mean (0.485, 0.456" in caplog.text


class Own(keras.Model):
    """A part of a model with a `call` of its own, that rescales before its weights."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.dense = keras.layers.Dense(4)

    def call(self, images):
        return self.dense(keras.ops.mean(images * self.scale, axis=(1, 2)))


class Named(keras.layers.Layer):
    """A layer with weights, and with an attribute of the name of a model's."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4))

    def call(self, images):
        return keras.ops.mean(images, axis=(1, 2)) @ self.kernel


@pytest.mark.parametrize("make", [Own, lambda: Named(2), lambda: Named(["a", "b"])])
def test_a_part_without_a_graph_counts_as_a_layer(make):
    """What is before it is looked at, what is inside of it is not."""
    for front, white in ((None, 1), (keras.layers.Rescaling(1 / 255), 255)):
        inputs = keras.Input(SHAPE)
        x = front(inputs) if front else inputs
        assert input_range.white(keras.Model(inputs, make()(x))) == white
    inputs = keras.Input(SHAPE)
    assert input_range.white(keras.Model(inputs, Own(1 / 255)(inputs))) == 1
    methods.SimCLR(keras.Model(inputs, make()(inputs)))


def test_statistics_inside_of_a_part_without_a_graph_are_no_weights():
    class Front(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.Normalization()
            self.norm.adapt(np.float32([[[[100] * 3]], [[[200] * 3]]]))

        def call(self, images):
            return self.norm(images)

    assert input_range.white(network(Front())) == 255

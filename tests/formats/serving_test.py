import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from tests.fixtures import plain_exports, served_alone
from tfssl import models
from tfssl.data import preprocessing as preprocessing_lib
from tfssl.formats import keras_file, serving, signatures

_SIZE = 16


@pytest.fixture(autouse=True)
def _float32():
    """Each test leaves Keras's global policy as it was."""
    yield
    keras.config.set_dtype_policy("float32")


def small_encoder(channels=3, **kwargs):
    keras.utils.set_random_seed(0)
    encoder = models.resnet(
        18,
        width=0.0625,
        stem="cifar",
        input_shape=(None, None, channels),
        **kwargs,
    )
    # Zero gammas and unit statistics would hide mistakes in most of the layers.
    rng = np.random.default_rng(0)
    for variable in encoder.variables:
        if variable.path.split("/")[-1] in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        if variable.path.split("/")[-1] in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return encoder


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def preprocessing():
    return preprocessing_lib.Preprocessing(
        size=_SIZE,
        channels=3,
        crop=0.875,
        resize="bicubic",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory, encoder, preprocessing):
    """The encoder as it is served, with all its signatures."""
    folder = tmp_path_factory.mktemp("m")
    return serving.saved_model(encoder, folder, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def loaded(version):
    return tf.saved_model.load(version)


def picture(height, width, seed, channels=3):
    """A smooth picture, so that JPEG keeps it recognisable."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, channels), np.uint8)
    shape = small if channels > 1 else small[..., 0]
    return Image.fromarray(shape).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    """JPEG and PNG files of several sizes; one PNG is grey."""
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg", "grey.png")]
    picture(40, 30, 0).save(paths[0], quality=90)
    picture(20, 55, 1).save(paths[1])
    picture(17, 16, 2).save(paths[2], quality=60)
    picture(33, 33, 3, channels=1).save(paths[3])
    return [str(path) for path in paths]


def in_python(encoder, preprocessing, files):
    images = [preprocessing.apply_encoded(tf.io.read_file(path)) for path in files]
    return encoder(tf.stack(images), training=False).numpy()


def test_python_fresh_process_and_cli_agree(
    tmp_path, version, encoder, preprocessing, files
):
    expected = in_python(encoder, preprocessing, files)
    assert np.ptp(expected, axis=0).max() > 0.1  # The images do differ.

    command = [sys.executable, served_alone.__file__, version, str(tmp_path), *files]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_allclose(np.load(tmp_path / "fresh.npy"), expected, atol=1e-5)
    served = np.load(tmp_path / "features.npy")
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_signatures_agree_and_batches_equal_single_images(
    loaded, encoder, preprocessing, files
):
    encoded = tf.stack([tf.io.read_file(path) for path in files])
    expected = in_python(encoder, preprocessing, files)

    by_bytes = loaded.signatures["serving_default"]
    one_by_one = [by_bytes(encoded[i : i + 1])["features"] for i in range(4)]
    np.testing.assert_allclose(tf.concat(one_by_one, 0), expected, atol=1e-5)

    for row, image in enumerate(encoded):
        pixels = preprocessing.decode(image)[tf.newaxis]
        for signature, images in (
            ("uint8_images", pixels),
            ("float_images", preprocessing.apply(pixels[0])[tf.newaxis]),
        ):
            found = loaded.signatures[signature](images=images)["features"]
            np.testing.assert_allclose(found[0], expected[row], atol=1e-5)


def test_interface(loaded):
    assert sorted(loaded.signatures) == [
        "float_images", "serving_default", "uint8_images",
    ]  # fmt: skip
    expected = {
        "serving_default": ("encoded_images", tf.string, [None]),
        "uint8_images": ("images", tf.uint8, [None, None, None, 3]),
        "float_images": ("images", tf.float32, [None, _SIZE, _SIZE, 3]),
    }
    for name, function in loaded.signatures.items():
        (spec,) = function.structured_input_signature[1].values()
        assert (spec.name, spec.dtype, spec.shape.as_list()) == expected[name]
        outputs = dict(function.structured_outputs)
        output = outputs.pop("features")
        assert output.dtype == tf.float32 and output.shape.as_list() == [None, 32]
        if name == "serving_default":
            output = outputs.pop("valid")
            assert output.dtype == tf.bool and output.shape.as_list() == [None]
        assert not outputs


def test_each_signature_is_traced_once(tmp_path, monkeypatch):
    traced, outputs = [], signatures.outputs

    def counted(*args):
        traced.append(args)
        return outputs(*args)

    monkeypatch.setattr(signatures, "outputs", counted)
    pool = keras.layers.GlobalAveragePooling2D()
    encoder = keras.Sequential([keras.Input((4, 4, 3)), pool])
    made = preprocessing_lib.Preprocessing(size=4)
    serving.saved_model(encoder, tmp_path, preprocessing=made)
    assert len(traced) == 3


def test_graph_has_no_forbidden_operation(version):
    message = saved_model_pb2.SavedModel()
    with open(os.path.join(version, "saved_model.pb"), "rb") as file:
        message.ParseFromString(file.read())
    graph = message.meta_graphs[0].graph_def
    nodes = list(graph.node) + [n for f in graph.library.function for n in f.node_def]
    names = {node.op for node in nodes}
    assert "FusedBatchNormV3" in names  # The search does look inside functions.
    assert "DecodeWebP" not in names  # Unknown to servers before TensorFlow 2.20.
    assert not {n for n in names if "Base64" in n or "HashTable" in n or "Py" in n}
    assert not any(node.attr["_XlaMustCompile"].b for node in nodes)
    assert not any(f.attr["_XlaMustCompile"].b for f in graph.library.function)


def test_only_the_encoder_is_inside(tmp_path, preprocessing, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    encoder = small_encoder()
    # Optimizer slots of a compiled encoder must stay out.
    encoder.compile(keras.optimizers.Adam(1e-3), "mse")
    encoder.optimizer.build(encoder.trainable_variables)
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    prefix = os.path.join(path, "variables", "variables")
    stored = {
        name: np.prod(shape, dtype=int)
        for name, shape in tf.train.list_variables(prefix)
        if "OBJECT_GRAPH" not in name and "SAVE_COUNTER" not in name.upper()
    }
    assert sum(stored.values()) == encoder.count_params()  # None of them twice.
    size = sum(
        os.path.getsize(os.path.join(path, "variables", name))
        for name in os.listdir(os.path.join(path, "variables"))
        if "data" in name
    )
    # The object graph, a few kB whatever the model, is in the same file.
    assert size <= 1.05 * 4 * encoder.count_params() + 40_000


def test_empty_batches(loaded):
    for name, images in (
        ("serving_default", tf.zeros([0], tf.string)),
        ("uint8_images", tf.zeros([0, 9, 7, 3], tf.uint8)),
    ):
        assert loaded.signatures[name](images)["features"].shape == (0, 32)
    answer = loaded.signatures["serving_default"](tf.zeros([0], tf.string))
    assert answer["valid"].shape == (0,)


def test_images_of_another_shape_are_an_error_and_no_crash(loaded, preprocessing):
    answer = loaded.signatures["float_images"]
    size = preprocessing.size
    for shape in ((), (3,), (size, size, 3), (1, 1, size, size, 3), (1, size, 9, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            answer(images=tf.zeros(shape))
    assert answer(images=tf.zeros((2, size, size, 3)))["features"].shape == (2, 32)


def _bad_files(good):
    """Bytes that no decoder takes, or should."""
    huge_png = bytearray(tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy())
    huge_png[16:24] = (2**30).to_bytes(4, "big") * 2  # Width and height.
    return {
        "cut short": good[: len(good) // 2],
        "cut in its header": good[:12],
        "text": b"<html>404</html>",
        "nothing": b"",
        "a header of a huge image": bytes(huge_png),
        "noise that begins like a JPEG file": b"\xff\xd8\xff" + bytes(range(256)),
    }


def test_bad_images_do_not_fail_the_good_ones_of_a_batch(
    loaded, encoder, preprocessing, files
):
    good = [open(file, "rb").read() for file in files]
    bad = list(_bad_files(good[0]).values())
    batch = [bad[0], good[0], *bad[1:4], good[1], good[2], *bad[4:], good[3]]
    answer = loaded.signatures["serving_default"](tf.constant(batch))
    valid = answer["valid"].numpy()
    np.testing.assert_array_equal(valid, [image in good for image in batch])
    expected = in_python(encoder, preprocessing, files)
    np.testing.assert_allclose(answer["features"][valid], expected, atol=1e-5)
    np.testing.assert_array_equal(answer["features"][~valid], 0.0)
    # A bad row is a row of zeros, though the encoder gives something else for zeros.
    assert np.abs(encoder(tf.zeros((1, _SIZE, _SIZE, 3)), training=False)).max() > 0.1

    none = loaded.signatures["serving_default"](tf.constant(bad))
    assert not np.any(none["valid"]) and not np.any(none["features"])


def test_still_webp_is_read_and_its_animations_are_not(
    tmp_path, loaded, encoder, preprocessing
):
    names = [
        str(tmp_path / name) for name in ("lossy.webp", "exact.webp", "alpha.webp")
    ]
    picture(40, 30, 0).save(names[0], quality=90)
    picture(20, 55, 1).save(names[1], lossless=True)
    picture(20, 30, 2, channels=4).save(names[2], lossless=True)
    moves = tmp_path / "moves.webp"
    frames = [picture(20, 20, seed) for seed in range(3)]
    frames[0].save(moves, save_all=True, append_images=frames[1:])
    batch = [open(file, "rb").read() for file in (*names, moves)]
    answer = loaded.signatures["serving_default"](tf.constant(batch))
    np.testing.assert_array_equal(answer["valid"], [True, True, True, False])
    expected = in_python(encoder, preprocessing, names)
    np.testing.assert_allclose(answer["features"][:3], expected, atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_mixed_precision_stays_inside(tmp_path, preprocessing, policy, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    encoder = small_encoder(dtype=policy)
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    function = tf.saved_model.load(path).signatures["float_images"]
    images = np.random.default_rng(0).normal(size=(2, _SIZE, _SIZE, 3))
    found = function(images=tf.constant(images, tf.float32))["features"]
    assert found.dtype == tf.float32
    expected = encoder(images.astype(np.float32), training=False)
    np.testing.assert_allclose(found, tf.cast(expected, tf.float32), atol=1e-5)


@pytest.mark.parametrize("channels, max_value", [(1, 65535.0), (4, 255.0)])
def test_other_channels_and_bit_depths(tmp_path, channels, max_value):
    encoder = small_encoder(channels)
    preprocessing = preprocessing_lib.Preprocessing(
        size=_SIZE, channels=channels, max_value=max_value
    )
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    loaded = tf.saved_model.load(path)
    dtype = np.uint16 if max_value == 65535 else np.uint8
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, int(max_value) + 1, (1, 20, 24, channels)).astype(dtype)
    expected = encoder(
        preprocessing.apply(tf.constant(pixels[0]))[tf.newaxis], training=False
    )
    found = loaded.signatures["uint8_images"](images=tf.constant(pixels))["features"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    encoded = tf.io.encode_png(pixels[0])
    found = loaded.signatures["serving_default"](encoded[tf.newaxis])["features"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_plain_keras_model(tmp_path, files):
    keras.utils.set_random_seed(1)
    encoder = keras.applications.MobileNet(
        input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None,
        pooling="avg",
    )  # fmt: skip
    preprocessing = preprocessing_lib.Preprocessing(size=32)
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    loaded = tf.saved_model.load(path)
    encoded = tf.stack([tf.io.read_file(path) for path in files])
    found = loaded.signatures["serving_default"](encoded)["features"]
    expected = in_python(encoder, preprocessing, files)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    empty = loaded.signatures["serving_default"](tf.zeros([0], tf.string))
    assert empty["features"].shape == (0, 256)


def test_export_after_mirrored_training(tmp_path, mirrored, preprocessing, monkeypatch):
    plain_exports.only_floats(monkeypatch)
    with mirrored(2).scope():
        encoder = small_encoder()
    images = tf.zeros((1, _SIZE, _SIZE, 3))
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    found = tf.saved_model.load(path).signatures["float_images"](images)["features"]
    np.testing.assert_allclose(found, encoder(images, training=False), atol=1e-5)


def test_encoder_and_preprocessing_must_fit(tmp_path, encoder):
    grey = preprocessing_lib.Preprocessing(size=_SIZE, channels=1)
    with pytest.raises(ValueError, match=r"does not take images of \(16, 16, 1\)"):
        serving.saved_model(encoder, tmp_path, preprocessing=grey)
    maps = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match='pooling="avg"'):
        serving.saved_model(
            maps, tmp_path, preprocessing=preprocessing_lib.Preprocessing(size=4)
        )
    assert not os.listdir(tmp_path)


def test_python_inside_of_an_encoder_is_refused(tmp_path):
    """A server would load it, and fail at its first request."""

    class Sines(keras.layers.Layer):
        def call(self, images):
            sines = tf.numpy_function(np.sin, [images], tf.float32)
            return tf.ensure_shape(sines, images.shape)

    pooled = [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    encoder = keras.Sequential([*pooled, Sines()], name="sines")
    preprocessing = preprocessing_lib.Preprocessing(size=4)
    for path in (tmp_path, tmp_path / "new"):
        with pytest.raises(ValueError, match="'sines' calls Python functions"):
            serving.saved_model(encoder, path, preprocessing=preprocessing)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_alexnet_with_sobel_and_dropout(tmp_path, preprocessing, files, dtype):
    encoder = models.alexnet(
        width=1 / 32, stem="cifar", input_shape=(_SIZE, _SIZE, 3), sobel=True,
        dtype=dtype,
    )  # fmt: skip
    for variable in encoder.trainable_variables:  # Or all features are near zero.
        if variable.path.startswith("fc") and variable.path.endswith("kernel"):
            variable.assign(10 * variable)
    path = serving.saved_model(encoder, tmp_path / "m", preprocessing=preprocessing)
    expected = in_python(encoder, preprocessing, files)
    assert np.ptp(expected, axis=0).max() > 0.1
    encoded = tf.stack([tf.io.read_file(path) for path in files])
    served = tf.saved_model.load(path).signatures["serving_default"](encoded)
    np.testing.assert_allclose(served["features"], expected, atol=1e-5)
    again, same = keras_file.load(os.path.join(path, "assets.extra", "encoder.keras"))
    np.testing.assert_allclose(in_python(again, same, files), expected, atol=1e-5)

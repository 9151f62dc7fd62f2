import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import data, formats, models
from tfssl.models import copying, freezing, remat

_ARGS = {"width": 1 / 16, "stem": "cifar"}


def encoder(shape=(20, 16, 3), patch=8, stride=4, **args):
    keras.utils.set_random_seed(0)
    return models.encoder(
        "patches",
        input_shape=shape,
        of="resnet18",
        patch=patch,
        stride=stride,
        **_ARGS | args,
    )


def images(batch=3, shape=(20, 16, 3)):
    return np.random.default_rng(0).uniform(size=(batch, *shape)).astype("float32")


def test_features_are_the_mean_of_the_features_of_the_patches():
    model = encoder()
    assert model.grid_shape == (4, 3) and model.name == "patches_of_resnet18"
    assert model.output_shape == (None, 32)
    x = images()
    grid = model.grid(x).numpy()
    assert grid.shape == (3, 4, 3, 32)
    for row in range(4):
        for column in range(3):
            patch = x[:, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            found = model.encoder(patch)
            np.testing.assert_allclose(grid[:, row, column], found, atol=1e-5)
    np.testing.assert_allclose(model(x), grid.mean((1, 2)), rtol=1e-5)
    inside = keras.Model(model.inputs[0], model.stage_outputs["grid"])
    np.testing.assert_allclose(inside(x), grid, atol=1e-6)


def test_patches_are_encoded_by_themselves():
    model = encoder()
    x = tf.constant(images())
    with tf.GradientTape() as tape:
        tape.watch(x)
        one = model.grid(x, training=True)[1, 2, 1]
    seen = np.abs(tape.gradient(one, x)).sum(-1) > 0
    assert not seen[[0, 2]].any() and seen[1].any()
    seen[1, 8:16, 4:12] = False
    assert not seen.any()


def test_patches_of_another_side_are_encoded_too():
    model = encoder()
    cells = model.cut(images())[:, :, :, 1:7, 2:8]
    found = model.encode(cells, training=True)
    np.testing.assert_allclose(
        found[1, 2, 1], model.encoder(cells[1, 2, 1][None])[0], atol=1e-5
    )


def test_images_of_unknown_size():
    model = encoder((None, None, 3))
    assert model.grid_shape is None
    again = encoder()
    model.set_weights(again.get_weights())
    np.testing.assert_allclose(model(images()), again(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_and_loaded(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = encoder()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(images()).dtype == tf.float32
    path = str(tmp_path / "encoder.keras")
    formats.keras_file.save(model, path, data.Preprocessing(size=16))
    again, _ = formats.keras_file.load(path)
    assert isinstance(again, models.PatchEncoder)
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(again(images()), model(images()))


def test_a_served_export_answers_as_the_encoder(tmp_path):
    model = encoder((16, 16, 3))
    path = formats.saved_model(
        model, str(tmp_path / "served"), preprocessing=data.Preprocessing(size=16)
    )
    x = images(shape=(16, 16, 3))
    served = tf.saved_model.load(path).signatures
    assert set(served) == {"serving_default", "uint8_images", "float_images"}
    found = served["float_images"](images=x)["features"]
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)
    pixels = (255 * x).astype(np.uint8)
    found = served["uint8_images"](images=pixels)["features"]
    np.testing.assert_allclose(found, model(pixels / np.float32(255)), atol=1e-4)
    encoded = tf.stack([tf.io.encode_png(image) for image in pixels])
    answer = served["serving_default"](encoded_images=encoded)
    np.testing.assert_allclose(answer["features"], found, rtol=1e-5, atol=1e-6)


def test_what_is_done_to_encoders_reaches_the_network_inside():
    model = encoder()
    freezing.freeze(model, "all")
    assert not model.trainable_variables
    freezing.thaw(model)
    assert len(model.trainable_variables) == len(model.encoder.trainable_variables)
    copy = copying.copied(model, "a test", "mixed_bfloat16")
    assert copy.encoder.layers[1].compute_dtype == "bfloat16"
    remat.switch_on(model)
    assert model.encoder.remat
    assert set(freezing.depths(model).values()) == {1}


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="patch=24 received for images of 20 pixels"):
        encoder(patch=24)
    with pytest.raises(ValueError, match="leaves no grid"):
        encoder(stride=12)
    with pytest.raises(ValueError, match="of='alexnet' received, expected one of"):
        models.encoder("patches", input_shape=(64, 64, 3), of="alexnet")

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.classifiers import classifier
from tfssl import models
from tfssl.data import preprocessing as preprocessing_lib
from tfssl.formats import keras_file

_PREPROCESSING = preprocessing_lib.Preprocessing(
    size=16, crop=0.875, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)
)


def small_encoder(**kwargs):
    encoder = models.resnet(
        18, width=0.0625, stem="cifar", input_shape=(None, None, 3), **kwargs
    )
    for variable in encoder.trainable_variables:
        if variable.path.endswith("/gamma"):  # Zero at the start of training.
            variable.assign(tf.ones(variable.shape))
    return encoder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


def test_round_trip(tmp_path, images):
    encoder = small_encoder()
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING)
    assert os.listdir(tmp_path) == ["e.keras"]  # One file, no scratch left.
    loaded, preprocessing = keras_file.load(path)
    assert preprocessing == _PREPROCESSING
    assert type(loaded) is type(encoder)
    np.testing.assert_array_equal(
        loaded(images, training=False), encoder(images, training=False)
    )


_FRESH = """
import sys
import numpy as np
import tfssl

path, images, out = sys.argv[1:]
encoder, preprocessing = tfssl.formats.load(path)
assert preprocessing.size == 16
import keras
again = keras.saving.load_model(path)  # Plain Keras reads it too.
images = np.load(images)
np.save(out, encoder(images, training=False))
assert np.array_equal(np.load(out), again(images, training=False))
"""


def test_fresh_process_needs_only_import_tfssl(tmp_path, images):
    encoder = small_encoder()
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING)
    np.save(tmp_path / "images.npy", images)
    arguments = [path, str(tmp_path / "images.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", _FRESH, *arguments], check=True)
    expected = encoder(images, training=False)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


def test_fine_tuning_reaches_every_variable(tmp_path, images):
    path = keras_file.save(small_encoder(), tmp_path / "e.keras", _PREPROCESSING)
    encoder, _ = keras_file.load(path)
    head = keras.layers.Dense(3)
    head.build((None, encoder.output_shape[-1]))
    before = [v.numpy() for v in encoder.non_trainable_variables]
    with tf.GradientTape() as tape:
        logits = head(encoder(images, training=True))
        loss = keras.losses.sparse_categorical_crossentropy(
            np.array([0, 1, 2, 0]), logits, from_logits=True
        )
    gradients = tape.gradient(loss, encoder.trainable_variables)
    assert len(gradients) > 60
    for variable, gradient in zip(encoder.trainable_variables, gradients):
        assert gradient is not None, variable.path
        assert np.abs(gradient.numpy()).max() > 0, variable.path
    after = [v.numpy() for v in encoder.non_trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after))  # Statistics move.


def test_mixed_precision_and_names_survive(tmp_path):
    encoder = small_encoder(dtype="mixed_bfloat16", padding="same", name="mine")
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING)
    loaded, _ = keras_file.load(path)
    assert loaded.name == "mine"
    assert loaded.get_config() == encoder.get_config()


def test_a_plain_keras_model_and_a_file_without_preprocessing(tmp_path, images):
    encoder = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    path = keras_file.save(encoder, tmp_path / "own.keras", _PREPROCESSING)
    assert keras_file.load(path)[1] == _PREPROCESSING
    encoder.save(tmp_path / "plain.keras")
    loaded, preprocessing = keras_file.load(tmp_path / "plain.keras")
    assert preprocessing is None
    np.testing.assert_array_equal(loaded(images), encoder(images))


def test_a_head_is_in_the_same_file(tmp_path, images):
    encoder = small_encoder()
    head = models.heads.mlp(32, (5, 4), last_norm="batch", norm_statistics="global")
    for variable in head.variables:
        variable.assign(np.random.default_rng(0).uniform(1, 2, size=variable.shape))
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING, head=head)
    assert os.listdir(tmp_path) == ["e.keras"] and keras_file.holds_head(path)
    features = encoder(images)
    loaded, preprocessing, found, _ = keras_file.load_with_head(path)
    assert preprocessing == _PREPROCESSING
    np.testing.assert_array_equal(loaded(images), features)
    np.testing.assert_array_equal(found(features), head(features))
    # To all that ask for the encoder alone it is as before, also to plain Keras.
    for one in (keras_file.load(path)[0], keras.saving.load_model(path)):
        np.testing.assert_array_equal(one(images), features)
        assert len(one.variables) == len(encoder.variables)
    keras_file.save(encoder, path, _PREPROCESSING)
    assert not keras_file.holds_head(path)
    assert keras_file.load_with_head(path)[2] is None
    (tmp_path / "e.keras").write_bytes(b"PK cut short")
    assert not keras_file.holds_head(path)
    with pytest.raises(ValueError, match="not a .keras file"):
        keras_file.load_with_head(path)


def test_code_in_a_head_is_refused(tmp_path):
    head = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING, head=head)
    assert keras_file.load(path)
    with pytest.raises(ValueError, match="holds Python code"):
        keras_file.load_with_head(path)


def test_what_a_killed_save_leaves_goes_with_the_next(tmp_path, monkeypatch):
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    preprocessing = preprocessing_lib.Preprocessing(size=4)
    with monkeypatch.context() as patch:
        # A process that is killed removes nothing.
        patch.setattr(os, "replace", lambda *_: 1 / 0)
        patch.setattr(os, "remove", lambda _: None)
        with pytest.raises(ZeroDivisionError):
            keras_file.save(encoder, tmp_path / "e.keras", preprocessing)
    assert os.listdir(tmp_path) == ["e.part.keras"]
    keras_file.save(encoder, tmp_path / "e.keras", preprocessing)
    assert os.listdir(tmp_path) == ["e.keras"]
    assert keras_file.load(tmp_path / "e.keras")[1] == preprocessing


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError("No space left on device")

    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    preprocessing = preprocessing_lib.Preprocessing(size=4)
    monkeypatch.setattr(preprocessing_lib.Preprocessing, "get_config", full)
    with pytest.raises(OSError, match="No space left"):
        keras_file.save(encoder, tmp_path / "e.keras", preprocessing)
    assert not os.listdir(tmp_path)


def test_saving_again_replaces_the_file(tmp_path):
    path = tmp_path / "deep" / "folder" / "e.keras"
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    keras_file.save(encoder, path, preprocessing_lib.Preprocessing(size=4))
    keras_file.save(encoder, path, preprocessing_lib.Preprocessing(size=8))
    assert keras_file.load(path)[1].size == 8
    assert zipfile.ZipFile(path).namelist().count("preprocessing.json") == 1


def test_code_in_a_file_is_refused(tmp_path):
    encoder = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]
    )
    encoder.save(tmp_path / "evil.keras")
    with pytest.raises(ValueError, match="unsafe|lambda|Lambda"):
        keras_file.load(tmp_path / "evil.keras")


def test_damage_is_found_whatever_byte_it_hits(tmp_path):
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    path = keras_file.save(encoder, tmp_path / "e.keras", _PREPROCESSING)
    whole = open(path, "rb").read()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.keras"
    refused = 0
    for place in rng.integers(0, len(whole), 60):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        damaged.write_bytes(content)
        try:
            keras_file.load(damaged)
        except ValueError as error:
            refused += 1
            assert "damaged.keras" in str(error) and str(error).count("\n") == 0
    assert refused >= 30  # The rest are dates and the like.


def test_a_damaged_member_is_no_question_of_classes(tmp_path):
    path = keras_file.save(small_encoder(), tmp_path / "e.keras", _PREPROCESSING)
    content = bytearray(open(path, "rb").read())
    content[len(content) // 2] ^= 1
    (tmp_path / "e.keras").write_bytes(content)
    with pytest.raises(ValueError, match="e.keras' is damaged .*copy it anew"):
        keras_file.load(path)


@pytest.mark.parametrize(
    "text",
    ["5", "[]", "{", "null", '{"size": "8"}', '{"size": 8, "std": [null]}',
     '{"size": 8, "zoom": 1}', "[" * 100_000],
)  # fmt: skip
def test_preprocessing_of_another_kind(tmp_path, text):
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    encoder.save(tmp_path / "e.keras")
    with zipfile.ZipFile(tmp_path / "e.keras", "a") as archive:
        archive.writestr("preprocessing.json", text)
    with pytest.raises(ValueError, match="The preprocessing.json in .*e.keras' is no"):
        keras_file.load(tmp_path / "e.keras")


class _Mine(keras.layers.Layer):
    def call(self, x):
        return x


def test_classes_are_asked_for_where_they_are_missing_only(tmp_path):
    mine = keras.Sequential([keras.Input((4,)), _Mine()])
    mine.save(tmp_path / "mine.keras")
    with pytest.raises(ValueError, match="register its classes with keras"):
        keras_file.load(tmp_path / "mine.keras")
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["config.json"] = members["config.json"].replace(b'"units"', b'"unitz"')
    with zipfile.ZipFile(tmp_path / "plain.keras", "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(ValueError, match="Dense.*units.*save it again with this"):
        keras_file.load(tmp_path / "plain.keras")


def test_bad_paths(tmp_path):
    encoder = keras.Sequential([keras.Input((4,))])
    with pytest.raises(ValueError, match="path='.*/e.h5' received, .* ends in .keras"):
        keras_file.save(encoder, tmp_path / "e.h5", _PREPROCESSING)
    with pytest.raises(ValueError, match="no .keras file at"):
        keras_file.load(tmp_path / "missing.keras")
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="is not a .keras file"):
        keras_file.load(tmp_path / "cut.keras")


@pytest.mark.parametrize("inside", [False, True])
def test_the_optimizer_stays_out(tmp_path, inside):
    """Of what is compiled itself, and of a compiled network inside of another."""
    made = classifier()
    plain = [
        os.path.getsize(keras_file.save(made, tmp_path / "plain.keras")),
        os.path.getsize(_whole(made, tmp_path / "plain_whole.keras")),
    ]
    for model in (made.network, made.head) if inside else (made,):
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        for slot in model.optimizer.variables[2:]:
            slot.assign(slot + 1)
    fitted = [
        keras_file.save(made, tmp_path / "fitted.keras"),
        _whole(made, tmp_path / "fitted_whole.keras"),
    ]
    for path, size in zip(fitted, plain):
        assert os.path.getsize(path) <= 1.01 * size
        again = keras_file.load_classifier(path)
        for one, other in zip(made.get_weights(), again.get_weights()):
            np.testing.assert_array_equal(one, other)
    parts = (made.network, made.head) if inside else (made,)
    assert all(model.compiled for model in parts)


def _whole(made, path):
    keras_file.save_whole(made, path)
    return path


def test_what_cannot_be_copied_is_saved_as_it_is(tmp_path):
    class Mine(keras.layers.Layer):
        def call(self, inputs):
            return keras.ops.mean(inputs, axis=(1, 2))

    network = keras.Sequential([keras.Input((4, 4, 3)), Mine()])
    network.compile("adam", "mse")
    path = keras_file.save(network, tmp_path / "e.keras", _PREPROCESSING)
    assert keras.saving.load_model(path, custom_objects={"Mine": Mine}).layers

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl.tasks import embed, runs


def test_embed_gives_every_image_once_and_writes_it(run, tmp_path):
    images, labels = small.images(n=21)
    out = tmp_path / "deep" / "e.npz"
    found = embed.embed(str(run), (images, labels), str(out), batch_size=8,
                        verbose=0)  # fmt: skip
    encoder = runs.load(run)
    expected = encoder(images.astype("float32") / 255.0)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    stored = np.load(out)
    np.testing.assert_array_equal(stored["features"], found.values)
    assert stored["names"][3] == "array[3]"
    assert [p.name for p in out.parent.iterdir()] == ["e.npz"]


def test_embed_needs_a_preprocessing(run):
    bare = small.tiny_encoder((8, 8, 1))
    with pytest.raises(ValueError, match="carries no preprocessing"):
        embed.embed(bare, small.images()[0])
    plain = data_lib.Preprocessing(size=8, channels=1)
    found = embed.embed(bare, small.images()[0], preprocessing=plain, verbose=0)
    assert found.values.shape == (40, 8)


def test_files_of_sixteen_bits_keep_them_for_an_encoder_of_such(tmp_path):
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8, 1)
    (tmp_path / "dark.png").write_bytes(tf.io.encode_png(dark).numpy())
    inputs = keras.Input((8, 8, 1))
    flat = keras.Model(inputs, keras.layers.Flatten()(inputs))
    deep = data_lib.Preprocessing(size=8, channels=1, max_value=65535)
    found = embed.embed(flat, str(tmp_path), preprocessing=deep, verbose=0)
    np.testing.assert_allclose(found.values[0], dark.ravel() / 65535, atol=1e-7)

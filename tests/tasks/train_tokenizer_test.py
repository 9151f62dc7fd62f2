import os
import types

import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tests.fixtures import copied_runs
from tests.tasks import pretrain_test as small
from tfssl import data, files, formats, models
from tfssl.tasks import export, runs, tokenizer_results, train_tokenizer

TINY = dict(
    vocabulary=16,
    downsampling=4,
    width=8,
    blocks=1,
    decoder_width=8,
    recipe="tokenizer_digits",
    image_size=8,
    learning_rate=1e-2,
    kl_weight=0.5,
    batch_size=8,
    verbose=0,
)


def trained(out, images=None, **settings):
    images = small.images()[0] if images is None else images
    return train_tokenizer.train_tokenizer(
        images, str(out), **TINY | {"epochs": 2} | settings
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


def watched(out, **settings):
    """A training with all that may be left of it."""
    validation = small.images(seed=1)[0]
    return trained(out, validation_data=validation, averaging=0.9, **settings)


@pytest.fixture(scope="module")
def run(folder):
    return copied_runs.whole(watched, folder, epochs=12)


def test_a_run_leaves_a_tokenizer_its_numbers_and_a_page(run):
    for key in ("loss", "kl", "perplexity", "codes_used", "dead_codes", "image_error"):
        assert np.isfinite(run.history[-1][key]), key
    assert run.history[-1]["image_error"] < run.history[0]["image_error"]
    loaded = tfssl.load_tokenizer(run.path)
    assert isinstance(loaded, models.Tokenizer)
    assert not os.path.exists(os.path.join(run.path, runs.ENCODER))
    found = files.read_json(os.path.join(run.path, "tokenizer.json"))
    assert found["fingerprint"] == loaded.fingerprint
    assert found["count"] == 40 and not found["trained_on"] and found["grid"] == [2, 2]
    assert runs.record_of(run.path)["task"] == "train_tokenizer"
    with open(os.path.join(run.path, "tokenizer.html")) as page:
        text = page.read()
    assert "what their tokens say" in text and "codes used, perplexity" in text
    # What the page says of the images, by hand.
    pixels = small.images(seed=1)[0] / np.float32(255)
    back = np.array(loaded.images(loaded.tokens(pixels)))
    assert found["squared_error"] == pytest.approx(((back - pixels) ** 2).mean(), 1e-4)


def test_images_that_cannot_be_read_are_not_counted(run, tmp_path):
    for number, pixels in enumerate(small.images()[0][:3]):
        content = tf.io.encode_png(pixels).numpy()
        (tmp_path / f"{number}.png").write_bytes(content)
    (tmp_path / "broken.png").write_bytes(b"no image")
    source = data.open_source(str(tmp_path), channels=1)
    made = runs.load_tokenizer(run.path), run.encoder.preprocessing
    training = types.SimpleNamespace(
        plan=types.SimpleNamespace(preprocessing=made[1]), images_at_once=4
    )
    bad_files = data.pipeline.BadFiles(max_fraction=1.0)
    found, _ = tokenizer_results._judged(made[0], source, False, training, bad_files)
    assert found["count"] == 3


def test_its_codes_serve_as_an_encoder_too(run):
    encoder = tfssl.load(run.path)
    pixels = small.images()[0][:4] / np.float32(255)
    assert encoder(pixels).shape == (4, 16)


def test_resume_in_mid_epoch_equals_the_straight_run(run, folder, tmp_path):
    parts = copied_runs.resumed(watched, folder, tmp_path / "parts", epochs=12)
    small.assert_same_runs(run, parts)


def test_what_cannot_work_is_refused_at_the_start(tmp_path):
    for given, message in (
        (dict(vocabulary=1), "vocabulary=1 received, expected a whole number, 2"),
        (dict(image_size=10), "Images of 10 x 10 pixels received"),
        (dict(downsampling=3), "downsampling=3 received, expected a power of 2"),
        (dict(recipe="simclr_digits"), "takes one whole view"),
        (dict(recipe="rotation"), "takes pixels in"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "refused", **given)
    assert not (tmp_path / "refused").exists()


def test_other_settings_are_refused_where_a_run_stands(run):
    with pytest.raises(ValueError, match="was trained with other settings.*kl_weight"):
        watched(run.path, epochs=12, kl_weight=2.0)


def test_one_code_for_all_is_neither_loaded_nor_exported(run, tmp_path):
    network = runs.load_tokenizer(run.path)
    network.usage.assign(np.eye(16)[3])
    path = str(tmp_path / "collapsed.keras")
    formats.keras_file.save(network, path, run.encoder.preprocessing)
    with pytest.raises(ValueError, match="has collapsed: of its 16 codes 1.00"):
        tfssl.load_tokenizer(path)
    with pytest.raises(ValueError, match="has collapsed: of its 16 codes 1.00"):
        export.export(path, str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_an_encoder_is_no_tokenizer(tmp_path):
    encoder = formats.Encoder(
        small.tiny_encoder((8, 8, 1)), data.Preprocessing(size=8, channels=1)
    )
    path = str(tmp_path / "encoder.keras")
    formats.keras_file.save(encoder, path)
    with pytest.raises(ValueError, match="holds an encoder .* and no tokenizer"):
        tfssl.load_tokenizer(path)
    with pytest.raises(ValueError, match="No encoder"):
        tfssl.load_tokenizer(str(tmp_path / "nowhere"))


def test_an_export_gives_tokens_and_images_as_python_does(run, tmp_path, capsys):
    pixels = small.images()[0]
    path = export.export(run.path, str(tmp_path), name="words", check=True, data=pixels)
    assert "through both signatures, largest difference" in capsys.readouterr().out
    served = tf.saved_model.load(path)
    assert set(served.signatures) == {"tokens", "images"}
    loaded = tfssl.load_tokenizer(str(tmp_path / "words"))
    images = tf.constant(pixels[:3] / np.float32(255))
    tokens = served.signatures["tokens"](images=images)["tokens"]
    assert tokens.dtype == tf.int32
    np.testing.assert_array_equal(tokens, loaded.tokens(images))
    again = served.signatures["images"](tokens=tokens)["images"]
    np.testing.assert_allclose(again, loaded.images(tokens), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a multiple of 4 expec"):
        served.signatures["tokens"](images=images[:, :7])
    for name, wrong in (("tokens", images[0]), ("images", tokens[0])):
        given = {"images" if name == "tokens" else "tokens": wrong}
        with pytest.raises(tf.errors.InvalidArgumentError):
            served.signatures[name](**given)
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 15 expected"):
        served.signatures["images"](tokens=tokens + 16)
    card = (tmp_path / "words" / "README.md").read_text()
    assert "Visual tokenizer" in card and "| vocabulary | 16 |" in card
    with pytest.raises(ValueError, match="Warm-up images received for a tokenizer"):
        export.export(run.path, str(tmp_path), name="words", warmup=2, data=pixels)

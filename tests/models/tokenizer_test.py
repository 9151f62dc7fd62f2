import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import models

TINY = dict(vocabulary=16, downsampling=4, width=8, blocks=1, decoder_width=8)


def tiny(**others):
    keras.utils.set_random_seed(1)
    return models.Tokenizer(**TINY | others)


def test_sizes_of_dall_e():
    with keras.StatelessScope(initialize_variables=False):
        model = models.Tokenizer()
    counts = [
        sum(int(np.prod(w.shape)) for w in part.weights)
        for part in (model.encoder, model.decoder)
    ]
    assert counts == [53_786_240, 43_829_766]
    assert [model.grid(side) for side in (112, 224, 256)] == [
        (14, 14),
        (28, 28),
        (32, 32),
    ]


@pytest.mark.parametrize("likelihood, outputs", [("logit_laplace", 6), ("mse", 3)])
def test_images_to_tokens_and_back(likelihood, outputs):
    model = tiny(likelihood=likelihood)
    images = np.random.default_rng(0).uniform(size=(2, 16, 24, 3)).astype("float32")
    tokens = model.tokens(images)
    assert tokens.dtype == "int32" and tokens.shape == (2, 4, 6)
    logits = np.array(model.logits(images))
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    assert model.decode(keras.ops.one_hot(tokens, 16)).shape == (2, 16, 24, outputs)
    back = np.array(model.images(tokens))
    assert back.shape == images.shape
    assert back.min() >= 0 and back.max() <= 1
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    said = exp / exp.sum(-1, keepdims=True)
    np.testing.assert_allclose(model(images), said.mean((1, 2)), atol=1e-6)


def test_files_keep_weights_and_usage(tmp_path):
    model = tiny()
    model.usage.assign(np.arange(16) / 120)
    path = str(tmp_path / "tokenizer.keras")
    model.save(path)
    again = keras.models.load_model(path)
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(again.tokens(images), model.tokens(images))
    tokens = np.arange(16).reshape(1, 4, 4)
    np.testing.assert_array_equal(again.images(tokens), model.images(tokens))
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(again.usage, model.usage)


def test_fingerprint_tells_weights_apart():
    model, other = tiny(), tiny()
    other.usage.assign(np.ones(16) / 16)
    assert model.fingerprint == other.fingerprint
    bias = other.decoder.trainable_variables[-1]
    bias.assign(bias + 1e-3)
    assert model.fingerprint != other.fingerprint


def test_collapse_is_told_by_the_recorded_use():
    model = tiny()
    assert model.perplexity is None
    model.check_use()
    model.usage.assign(np.repeat([0.25, 0], [4, 12]))
    assert model.perplexity == pytest.approx(4)
    model.check_use()
    model.usage.assign(np.eye(16)[3])
    with pytest.raises(ValueError, match="has collapsed: of its 16 codes 1.00"):
        model.check_use()


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(vocabulary=1), "vocabulary=1 received, expected a whole number, 2"),
        (dict(downsampling=6), "downsampling=6 received, expected a power of 2"),
        (dict(width=10), "width=10 received, expected a multiple of 4"),
        (dict(likelihood="l1"), "likelihood='l1' received, expected one of"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(ValueError, match=message):
        tiny(**given)


def test_whole_numbers_are_no_pixels():
    images = np.zeros((1, 32, 32, 3), "uint8")
    for given in (images, images.astype("int32")):
        with pytest.raises(ValueError, match="int.* received, .* floats in .* by 255"):
            models.Tokenizer(vocabulary=8, width=8).tokens(given)


def test_sizes_that_do_not_divide():
    model = tiny()
    with pytest.raises(ValueError, match="Images of 30 x 32 pixels received"):
        model.tokens(np.zeros((1, 30, 32, 3), "float32"))
    with pytest.raises(ValueError, match="Images of 30 x 30 pixels received"):
        model.grid(30)
    with pytest.raises(ValueError, match="Tokens from 3 to 16 received, but the codes"):
        model.images(np.array([[[3, 16]]]))


def test_computing_again_changes_nothing():
    model = tiny()
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")

    def gradients():
        with tf.GradientTape() as tape:
            logits = model.logits(images, training=True)
            outputs = model.decode(tf.nn.softmax(logits), training=True)
            loss = tf.reduce_sum(tf.square(outputs))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    expected = gradients()
    models.remat.switch_on(model)
    assert model.encoder.remat and model.decoder.remat
    for found, wanted in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_mixed_precision_has_float32_at_its_ends():
    model = tiny(dtype="mixed_bfloat16")
    images = np.full((1, 8, 8, 3), 0.2003, "float32")
    mapped = model.encoder.get_layer("pixel_map")
    part = keras.Model(model.encoder.inputs[0], mapped.output)
    part.dtype_policy = model.encoder.dtype_policy
    np.testing.assert_allclose(part(images), 0.1 + 0.8 * images, rtol=1e-6)
    logits = model.logits(images)
    assert logits.dtype == "float32"
    assert model.decode(logits).dtype == "float32"
    inside = model.encoder.get_layer("group_1_block_1_conv_1")
    assert inside.compute_dtype == "bfloat16"

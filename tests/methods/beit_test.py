"""What is BEiT's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import compiled
from tests.methods import cases
from tests.methods.cases import SIZE, batch_of, frozen_tokenizer, tiny_transformer
from tfssl import data, methods, models, replicas
from tfssl.methods import base

AUTHORS = dict(
    positions="none",
    relative="shared",
    layer_scale=0.1,
    init="beit",
    pooling="mean",
)


def made(teacher=None, **arguments):
    keras.utils.set_random_seed(0)
    encoder = tiny_transformer(**AUTHORS)
    given = dict(min_patches=2, seed=3)
    return methods.BEiT(encoder, teacher or frozen_tokenizer(), **given | arguments)


def images(batch=4, side=SIZE):
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(batch, side // 4, side // 4, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype("float32")


def slow_tokens(method, views):
    """The code of every cell of what the tokenizer is shown, one by one."""
    half = tf.image.resize(views, [8, 8], antialias=True)  # Tokens of 2 pixels.
    logits = method.teacher.network.logits(half).numpy()
    return np.array([[[np.argmax(c) for c in row] for row in x] for x in logits])


def test_stochastic_depth_acts_in_training_only():
    keras.utils.set_random_seed(0)
    sizes = dict(depth=2, heads=2, patch=4, input_shape=(SIZE, SIZE, 3))
    encoder = models.ViT(16, **sizes, **AUTHORS, drop_path=0.5)
    method = methods.BEiT(encoder, frozen_tokenizer(), min_patches=2, seed=3)
    views = images(16)
    mask = method.mask(tf.range(16), (4, 4))
    first, second = (method.guess(views, mask, training=True) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    first, second = (method.guess(views, mask) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_loss_and_accuracy_are_means_over_all_hidden_patches():
    method = made()
    views = images()
    values = method.image_losses(batch_of(views), training=False)
    tokens = slow_tokens(method, views)
    assert len(np.unique(tokens)) > 1
    mask = method.mask(tf.range(4), (4, 4)).numpy()
    assert len(set(mask.sum(axis=(1, 2)))) > 1
    rows = method.guess(views, mask).numpy().reshape(4, 4, 4, -1).astype(np.float64)
    losses, right = [], []
    for place in zip(*np.nonzero(mask)):
        row, true = rows[place], tokens[place]
        losses.append(-math.log(np.exp(row[true]) / np.exp(row).sum()))
        right.append(np.argmax(row) == true)
    assert values["loss"].shape == (4,)
    np.testing.assert_allclose(np.mean(values["loss"]), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(
        np.mean(values["masked_accuracy"]), np.mean(right), rtol=1e-5
    )


def test_guesses_come_from_what_is_seen():
    method = made()
    views = images()
    mask = method.mask(tf.range(4), (4, 4)).numpy()
    found = method.guess(views, mask)
    tokens = method._masked()(views, mask)
    kernel, bias = method.classifier.get_weights()
    np.testing.assert_allclose(found, tokens.numpy() @ kernel + bias, atol=1e-5)
    pixels = mask.repeat(4, axis=1).repeat(4, axis=2)[..., np.newaxis]
    other = np.where(pixels, 1 - views, views)
    np.testing.assert_array_equal(method.guess(other, mask), found)


def test_the_tokenizer_sees_the_same_pixels_without_the_normalization():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    plain = frozen_tokenizer()
    views = data.Preprocessing(size=SIZE, mean=mean, std=std)
    teacher = methods.Frozen(plain.network, plain.preprocessing, views)
    pixels = images()
    found = made(teacher).tokens((pixels - mean) / np.float32(std))
    np.testing.assert_array_equal(found, made(plain).tokens(pixels))
    assert found.dtype == tf.int64 and found.shape == (4, 4, 4)


def test_other_sizes_of_views_have_other_grids():
    method = made()
    views = images(side=24)
    values = method.image_losses(batch_of(views), training=False)
    assert method.tokens(views).shape == (4, 6, 6)
    assert np.isfinite(values["loss"]).all()


def test_masks_are_those_of_places_in_the_stream():
    method = made()
    first = method.mask(tf.range(8), (4, 4)).numpy()
    np.testing.assert_array_equal(method.mask(tf.range(3, 8), (4, 4)), first[3:])
    assert not np.array_equal(made(seed=4).mask(tf.range(8), (4, 4)), first)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_a_gpu_compiles_its_masks_and_hides_the_same(form, monkeypatch):
    method, places = made(mask_form=form), tf.range(64, dtype=tf.int64)
    expected = method.mask(places, (4, 4)).numpy()
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    mask = tf.function(lambda at: method.mask(at, (4, 4)), autograph=False)
    assert compiled.calls(mask.get_concrete_function(places)) == 1
    np.testing.assert_array_equal(mask(places), expected)


def test_blocks_keep_their_share_of_a_small_grid():
    method = made(min_patches=None)
    hidden = method.mask(tf.range(200), (8, 8)).numpy().sum(axis=(1, 2))
    assert hidden.min() > 0.4 * 64
    # Blocks of 16 at least would go further beyond.
    of_sixteen = made(min_patches=16).mask(tf.range(200), (8, 8)).numpy()
    assert hidden.mean() < of_sixteen.sum(axis=(1, 2)).mean()


def test_all_codes_alike_give_the_chance_loss():
    method = made()
    method.classifier.set_weights([0 * w for w in method.classifier.get_weights()])
    loss = method.image_losses(batch_of(images()), training=False)["loss"]
    assert np.mean(loss) == pytest.approx(math.log(6), rel=1e-5)
    assert method.chance_loss(16) == math.log(6)


def test_it_learns_to_say_what_is_hidden():
    method = made()
    method.compile(keras.optimizers.AdamW(3e-3))
    method.build_optimizer()
    # One colour per image: what is hidden is what is seen.
    rng = np.random.default_rng(1)
    views = np.broadcast_to(rng.uniform(size=(16, 1, 1, 3)), (16, SIZE, SIZE, 3))
    batch = batch_of(views.astype("float32"))
    before = method.image_losses(batch, training=False)
    step = tf.function(method.train_step, autograph=False)
    for _ in range(60):
        step(batch)
    after = method.image_losses(batch, training=False)
    assert np.mean(after["loss"]) < 0.7 * np.mean(before["loss"])
    assert np.mean(after["masked_accuracy"]) > np.mean(before["masked_accuracy"])


def test_weight_decay_takes_the_mask_token_and_no_checkpoint_has_the_tokenizer():
    method = made()
    learned = {v.path for v in method.learned_variables}
    assert any(path.endswith("mask_token") for path in learned)
    assert method.hidden.token.shape == (1, 1, 16)
    assert {id(v) for v in method.constants} == {
        id(v) for v in method.teacher.variables
    }
    assert not any("tokenizer" in path for path in learned)


def test_a_start_says_what_the_tokenizer_is_and_what_chance_would_be():
    method = made()
    (line,) = method.notes(16, 100)
    assert "6 codes, for 4 x 4 patches it sees 8 x 8 pixels" in line
    assert "by chance 16.67%" in line
    method.teacher.network.usage.assign([0.5, 0.5, 0, 0, 0, 0])
    assert "2 of its codes are in use" in method.notes(16, 100)[1]
    assert "a loss of 0.69" in method.notes(16, 100)[1]


def test_one_view_is_taken():
    (view,) = methods.BEiT.default_recipe
    assert view.size == 224 and view.resize == "bicubic" and not view.hue
    with pytest.raises(ValueError, match=r"2 view\(s\) received"):
        methods.BEiT.check_views(2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(mask_ratio=1.2), "mask_ratio=1.2 received"),
        (dict(min_patches=0), "min_patches=0 received"),
        (dict(mask_form="code"), "mask_form='code' received"),
        (dict(seed=-1), "seed=-1 received"),
        (dict(teacher=cases.tiny_teacher("cnn")), "teacher='cnn' received, expected a"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


def test_a_share_that_hides_none_or_all_of_a_grid_is_refused_at_the_start():
    made(mask_ratio=0.5).check_run(8, None)
    for share in (0.05, 0.99):
        with pytest.raises(ValueError, match=f"ratio={share} received for a grid of 4"):
            made(mask_ratio=share).check_run(8, None)


def test_a_cnn_and_a_collapsed_tokenizer_are_refused():
    with pytest.raises(ValueError, match="BEiT hides patches from a vision transform"):
        methods.BEiT(cases.tiny_encoder(), frozen_tokenizer())
    with_token = cases.tiny_transformer(distillation_token=True)
    with pytest.raises(
        ValueError, match="distillation_token=True .*no teacher of BEiT"
    ):
        methods.BEiT(with_token, frozen_tokenizer())
    teacher = frozen_tokenizer()
    teacher.network.usage.assign([1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="has collapsed"):
        made(teacher)


def test_it_is_saved_and_loaded_by_keras(tmp_path):
    method = made()
    assert isinstance(method, base.Method) and isinstance(method.encoder, models.ViT)
    method.compile("sgd")
    method.save(tmp_path / "method.keras")
    loaded = keras.saving.load_model(tmp_path / "method.keras")
    batch = batch_of(images())
    np.testing.assert_allclose(
        loaded.image_losses(batch, training=False)["loss"],
        method.image_losses(batch, training=False)["loss"],
        rtol=1e-6,
    )

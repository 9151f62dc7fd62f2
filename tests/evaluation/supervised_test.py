import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tfssl import data, models, progress
from tfssl.evaluation import supervised
from tfssl.tasks import resolve


def quarters(num, seed, labels=(3, 8)):
    """Noisy 12-pixel images; the class says which half is bright."""
    rng = np.random.default_rng(seed)
    which = np.arange(num) % 2
    images = rng.integers(0, 120, (num, 12, 12, 1))
    images[which == 0, :6] += 130
    images[which == 1, 6:] += 130
    return data.open_source((images.astype(np.uint8), np.array(labels)[which]))


def encoder(**kwargs):
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", **kwargs),
            keras.layers.Flatten(**kwargs),
            keras.layers.Dense(16, **kwargs),
        ]
    )


_PREPROCESSING = data.Preprocessing(size=12, channels=1)


def run(**changes):
    arguments = {
        "encoder": encoder(),
        "source": quarters(40, 0),
        "test_source": quarters(30, 1),
        "preprocessing": _PREPROCESSING,
        "epochs": 1,
        "min_steps": 40,
        "batch_size": 16,
        "verbose": 0,
    } | changes
    first = [arguments.pop(name) for name in ("encoder", "source", "test_source")]
    return supervised.train(*first, **arguments)


def test_learns_with_labels_that_are_not_dense_and_repeats():
    first = run()
    assert first.accuracy > 0.9
    assert run().accuracy == first.accuracy
    # 40 images make 2 full batches of 16; 40 steps are 20 epochs of them.
    assert "40 steps of 16" in first.protocol
    assert "40 train / 30 test" in first.protocol and "AdamW" in first.protocol
    assert len(first.history["loss"]) == 20
    assert first.history["loss"][-1] < first.history["loss"][0]


def test_wrong_labels_are_not_learnt():
    # With the labels of the test images swapped the accuracy must fall to 1 - a.
    good, swapped = run(), run(test_source=quarters(30, 1, labels=(8, 3)))
    assert swapped.accuracy == pytest.approx(1 - good.accuracy)


def test_starts_from_fresh_weights_and_leaves_the_encoder_alone():
    given = encoder()
    given.layers[1].trainable = False
    before = [v.numpy() for v in given.variables]
    found = run(encoder=given, min_steps=2)
    for old, new in zip(before, given.variables):
        np.testing.assert_array_equal(old, new)
    assert not any(v is w for v in found.model.variables for w in given.variables)
    assert len(found.model.trainable_variables) == len(given.variables) + 2


def test_fine_tuning_starts_from_the_encoder_and_leaves_it_alone():
    given = encoder()
    before = [v.numpy() for v in given.variables]
    found = run(encoder=given, start="encoder", min_steps=2, learning_rate=1e-30)
    learned = found.model.layers[1].variables
    for old, kept, new in zip(before, given.variables, learned, strict=True):
        np.testing.assert_array_equal(old, kept)
        np.testing.assert_allclose(old, new, atol=1e-12)
    assert not any(v is w for v in learned for w in given.variables)
    assert found.protocol.startswith("fine-tuned, AdamW")
    moved = run(encoder=given, start="encoder", min_steps=2).model.layers[1].variables
    assert all((old != new.numpy()).any() for old, new in zip(before, moved))


def test_what_an_encoder_has_learnt_helps_where_steps_are_few():
    trained = run(learning_rate=1e-2).model.layers[1]
    of = {"encoder": trained, "min_steps": 10}
    tuned, scratch = run(**of, start="encoder"), run(**of)
    assert tuned.history["loss"][-1] < 0.9 * scratch.history["loss"][-1]


def test_only_the_selected_labels_are_used():
    found = run(indices=[0, 1, 4, 5], min_steps=3)
    assert "3 steps of 4" in found.protocol and "4 train" in found.protocol


def test_sgd_own_recipe_and_mixed_precision(capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_watched", lambda stream: True)
    recipe = supervised.crop_and_flip(_PREPROCESSING, area=(0.9, 1.0), flip=0.0)
    found = run(
        encoder=encoder(dtype="mixed_bfloat16"),
        optimizer="sgd",
        learning_rate=0.05,
        recipe=recipe,
        min_steps=4,
        verbose=1,
    )
    assert "Nesterov SGD, learning rate 0.05" in found.protocol
    assert "recipe random crop 0.9 to 1 of the area, no flip," in found.protocol
    assert found.model.layers[-1].compute_dtype == "float32"
    assert "supervised:" in capsys.readouterr().err


def test_recipe_follows_the_preprocessing():
    preprocessing = data.Preprocessing(
        size=96, resize="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)
    )
    (view,) = supervised.crop_and_flip(preprocessing)
    assert (view.size, view.resize, view.area) == (96, "bicubic", (0.08, 1.0))
    assert tuple(view.mean) == (0.1, 0.2, 0.3)
    assert view.jitter == view.gray == view.blur == 0
    (small,) = supervised.crop_and_flip(_PREPROCESSING)
    assert small.area == (0.5, 1.0)
    assert (view.flip, small.flip) == (0.5, 0.0)  # One channel: no mirror images.


# What the geometry of a view has, what it does not, and what tells of the latter.
_KEPT = """size area aspect aspect_scale crop_rule crop_tries crop_fallback flip
    rotation shear translation resize antialias clip_resized mean std""".split()
_OFF = "jitter gray blur solarize rand_augment erase".split()
_OF_WHAT_IS_OFF = """brightness contrast saturation hue brightness_mode contrast_mean
    random_order gray_first blur_sigma blur_border solarize_threshold
    rand_augment_magnitude""".split()


def test_the_geometry_of_a_view_has_no_colour_changes_and_no_noise():
    known = {field.name for field in dataclasses.fields(data.View)}
    assert known == {*_KEPT, *_OFF, *_OF_WHAT_IS_OFF}
    given = data.View(
        size=20,
        area=(0.2, 0.9),
        aspect=(0.5, 2.0),
        aspect_scale="linear",
        crop_rule="height",
        crop_tries=3,
        crop_fallback="whole",
        flip=0.25,
        rotation=0.1,
        shear=0.1,
        translation=0.1,
        resize="bicubic",
        antialias=True,
        clip_resized=True,
        mean=0.5,
        std=0.25,
        **dict.fromkeys(_OFF, 1),
    )
    found = supervised.geometry(given)
    for name in _KEPT:
        assert getattr(found, name) == getattr(given, name) != _default(name), name
    assert [getattr(found, name) for name in _OFF] == [0] * len(_OFF)


def _default(name):
    return data.View.__dataclass_fields__[name].default


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optimizer": "lars"}, "Unknown optimizer 'lars'"),
        ({"start": "encoders"}, "start='encoders' received, expected one of"),
        ({"epochs": 0}, "epochs=0 received, expected a whole number, 1"),
        ({"batch_size": 0}, "batch_size=0 received, expected a whole number"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_missing_labels():
    bare = data.open_source(np.zeros((20, 12, 12, 1), np.uint8))
    with pytest.raises(ValueError, match="needs labels, but the training images"):
        run(source=bare)
    with pytest.raises(ValueError, match="needs labels, but the test images"):
        run(test_source=bare)


def test_unreadable_images_are_bounded_by_the_caller(tmp_path):
    for i in range(20):
        path = tmp_path / ("ab"[i % 2]) / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        image = np.full((12, 12, 1), 12 * i, np.uint8)
        path.write_bytes(tf.io.encode_png(image).numpy()[: 40 if i == 7 else None])
    folder = data.open_source(str(tmp_path), labels="folders", channels=1)
    with pytest.raises(ValueError, match=r"1 of 20 images .*07\.png"):
        run(source=folder, test_source=quarters(10, 1), min_steps=2)
    settings = {"max_bad_fraction": 0.1, "min_steps": 2}
    found = run(source=folder, test_source=folder, **settings)
    assert 0 <= found.accuracy <= 1


def test_of_a_segmenter_its_encoder_learns(recwarn):
    """Of its head no loss tells anything."""
    network = cases.tiny_transformer(input_shape=(12, 12, 1))
    segmenter = models.Segmenter(network, ["a", "b"], image_size=12, width=16)
    found = run(encoder=segmenter, min_steps=2)
    learned = len(network.trainable_variables)
    assert len(found.model.trainable_variables) == learned + 2
    assert not [w for w in recwarn if "Gradients do not exist" in str(w.message)]
    again = resolve.encoder(segmenter, (12, 12, 1))
    assert len(again.trainable_variables) == learned


@pytest.mark.parametrize("start", supervised.ROWS)
def test_an_encoder_in_float16_is_trained_with_a_scaled_loss(start):
    found = run(encoder=encoder(dtype="mixed_float16"), start=start, min_steps=2)
    assert isinstance(found.model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert found.model.layers[-1].compute_dtype == "float32"

import os
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfssl
from tests.fixtures import copied_runs, networks, staged
from tests.tasks import pretrain_test as small
from tfssl import data, files, formats, models
from tfssl.data import sources
from tfssl.tasks import (
    beginnings,
    export,
    judged_images,
    predict,
    runs,
    segmentation_results,
    segmenting,
    train_segmenter,
)

TINY = dict(
    preprocessing=data.Preprocessing(size=8),
    width=16,
    learning_rate=1e-2,
    batch_size=8,
    map_start=3,
    verbose=0,
)


def images(count=24, seed=0):
    """Blocks of colour, and a map of which colour is largest: 3 + 3 channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(count, 2, 2, 3))
    largest = coarse.argmax(-1)[..., np.newaxis] == np.arange(3)
    both = np.concatenate([coarse, largest], axis=-1)
    both = np.round(255 * both).astype(np.uint8)
    return both.repeat(4, axis=1).repeat(4, axis=2)


def encoder():
    keras.utils.set_random_seed(0)
    return staged.Staged()


def trained(out, given=None, network=None, **settings):
    return train_segmenter.train_segmenter(
        encoder() if network is None else network,
        images() if given is None else given,
        str(out),
        **TINY | {"epochs": 2} | settings,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("segmenter")
    return trained(
        out,
        validation_data=images(seed=1),
        epochs=12,
        class_names=("red", "green", "blue"),
        preprocessing=data.Preprocessing(size=8, crop=0.5),
    )


def test_a_run_leaves_a_segmenter_its_scores_and_a_page(run):
    first, last = run.history[0], run.history[-1]
    assert last["val_mean_iou"] > first["val_mean_iou"] + 0.15
    assert runs.record_of(run.path)["task"] == "train_segmenter"
    assert not os.path.exists(os.path.join(run.path, runs.ENCODER))
    loaded = tfssl.load_segmenter(run.path)
    assert isinstance(loaded.network, models.Segmenter)
    assert loaded.network.class_names == ("red", "green", "blue")
    assert loaded.preprocessing.channels == 3
    assert loaded.preprocessing.crop == 1  # Not what was given.
    found = files.read_json(os.path.join(run.path, "segmentation.json"))
    assert found["classes"] == ["red", "green", "blue"]
    # The scores, by hand, of whole images.
    seen = images(seed=1)
    said = np.array(loaded.network.mask(seen[..., :3] / np.float32(255)))
    true = seen[..., 3:].argmax(-1)
    ious = [
        ((said == c) & (true == c)).sum() / ((said == c) | (true == c)).sum()
        for c in range(3)
    ]
    told = found["results"]["trained"]
    assert told["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert told["mean_iou"] == pytest.approx(last["val_mean_iou"], abs=1e-6)
    assert told["pixel_accuracy"] == pytest.approx((said == true).mean(), abs=1e-6)
    assert list(told["iou"].values()) == pytest.approx(ious, abs=1e-6)
    assert runs.record_of(run.path)["segmentation"]["validation"] == found["validation"]
    with open(os.path.join(run.path, "segmentation.html")) as page:
        text = page.read()
    assert "what the segmenter says" in text and "mIoU" in text
    assert f"The scores are of {found['validation']}, 24 images" in text


def test_it_serves_as_an_encoder_too(run):
    encoder = tfssl.load(run.path)
    pixels = images()[:4, ..., :3] / np.float32(255)
    assert encoder(pixels).shape == (4, run.method.feature_dim)
    # What begins with it leaves its head behind.
    begun = beginnings.of(
        run.path,
        preprocessing=None,
        encoder_args=None,
        image_size=None,
        open_images=None,
        seed=0,
    )
    assert not isinstance(begun.network, models.Segmenter)
    np.testing.assert_array_equal(begun.network(pixels), encoder(pixels))


def test_it_is_exported_with_masks(run, tmp_path, capsys):
    pixels = np.ascontiguousarray(images()[:4, ..., :3])
    path = export.export(
        run.path, str(tmp_path), name="colours", check=True, warmup=2, data=pixels
    )
    assert "largest difference" in capsys.readouterr().out
    served = tf.saved_model.load(path).signatures
    found = served["uint8_images"](images=tf.constant(pixels))
    network = tfssl.load_segmenter(path).network
    np.testing.assert_array_equal(found["mask"], network.mask(pixels / np.float32(255)))
    assert found["mask"].dtype == tf.int32
    # As the masks of a prediction lie on images.
    predicted = predict.predict(run.path, pixels, verbose=0)
    np.testing.assert_array_equal(found["mask"], [row.mask for row in predicted])
    assert found["probabilities"].shape == (4, 8, 8, 3)
    np.testing.assert_allclose(np.sum(found["probabilities"], -1), 1, rtol=1e-5)
    encoded = [tf.io.encode_png(pixels[0]).numpy(), b"no image"]
    found = served["serving_default"](encoded_images=tf.constant(encoded))
    assert found["valid"].numpy().tolist() == [True, False]
    assert np.any(found["probabilities"][0]) and not np.any(found["probabilities"][1])
    with open(os.path.join(path, "assets", "classes.txt")) as names:
        assert names.read().split() == ["red", "green", "blue"]
    with open(os.path.join(path, "..", "README.md")) as card:
        text = card.read()
    assert "Segmenter of 3 classes" in text and "| 1 | green |" in text
    assert "`mask` is of the whole image" in text


def test_its_own_data_serves_without_the_maps(tmp_path, capsys):
    scenes = dict(split="test", map_start=None, validation_fraction=0.2, epochs=1)
    run = trained(tmp_path / "run", "scenes", **scenes, batch_size=64)
    export.export(run.path, str(tmp_path / "exported"), check=True)
    assert "4 images through the bytes signature" in capsys.readouterr().out
    made = tfssl.load(run.path).preprocessing
    judged = judged_images.JudgedImages().open(run.path, made, seed=0, verbose=0)
    assert (judged.train.channels, judged.train.num_images) == (3, 400)
    assert (judged.test.channels, judged.test.num_images) == (3, 100)
    expected = data.open_source("scenes", split="test")
    (batch,) = data.labeled(judged.test, made, batch_size=100)
    first = int(judged.test.describe(0).partition("[")[2].partition("]")[0])
    image = made.apply(expected.read(first)[..., :3])
    np.testing.assert_allclose(batch["image"][0], image, atol=1e-6)
    assert judged.test.labels[0] == expected.labels[first]


def test_resume_in_mid_epoch_equals_the_straight_run(tmp_path):
    def train(out, **settings):
        return trained(out, averaging=0.9, **settings)

    small.assert_same_runs(*copied_runs.of(train, tmp_path))


def manifest(folder):
    """Eight images of 8 bits, and a map of each without its left column."""
    given = images(8)
    lines = ["path,channels:objects:map3"]
    for i, image in enumerate(given):
        pixels = np.ascontiguousarray(image[..., :3])
        objects = image[..., 3:].argmax(-1).astype(np.uint8)
        objects[:, 0] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(objects).save(folder / f"{i}_map.png")
        lines.append(f"{i}.png,{i}_map.png")
    path = folder / "list.csv"
    path.write_text("\n".join(lines))
    return path


def test_maps_of_a_manifest(tmp_path):
    path = manifest(tmp_path)
    out = tmp_path / "out"
    given = dict(map_start=None, epochs=1, batch_size=2)
    trained(out, str(path), validation_fraction=0.25, **given)
    loaded = tfssl.load_segmenter(str(out))
    assert loaded.network.class_names == ("0", "1", "2")
    found = files.read_json(out / "segmentation.json")
    counted = np.sum(found["results"]["trained"]["confusion"])
    assert counted == 2 * 8 * 7  # Without the column that is no class.
    # A class that the column does not have, and a map of another size.
    for number, wrong in (3, np.full((8, 8), 7)), (5, np.ones((4, 4))):
        Image.fromarray(wrong.astype(np.uint8)).save(tmp_path / f"{number}_map.png")
    with pytest.raises(ValueError, match="2 of 8 images .*: ") as found:
        trained(tmp_path / "bad", str(path), max_bad_fraction=0.2, **given)
    for reason in (r"3.png \([^)]*no classes", r"5.png \([^)]*size"):
        assert re.search(reason, str(found.value)), found.value


def test_files_are_opened_with_the_depth_of_the_encoder(tmp_path):
    deep = data.Preprocessing(size=8, max_value=65535)
    run = trained(
        tmp_path / "out",
        str(manifest(tmp_path)),
        formats.Encoder(encoder(), deep),
        preprocessing=None,
        map_start=None,
        epochs=1,
        batch_size=8,
    )
    assert runs.record_of(run.path)["made"]["images"]["dtype"] == "uint16"
    assert tfssl.load_segmenter(run.path).preprocessing.max_value == 65535


def test_what_cannot_work_is_refused_at_the_start(tmp_path):
    plain = images()[..., :3]
    two = sources.ArraySource(images(), name="two")
    two.maps = {"one": (3, ("a", "b")), "other": (4, ("a", "b"))}
    one = sources.ArraySource(images(), name="a")
    elsewhere = sources.ArraySource(images()[::-1], name="b")
    one.maps, elsewhere.maps = {"mask": (3, tuple("xyz"))}, {"mask": (4, tuple("xy"))}
    fewer = sources.ArraySource(images()[::-1], name="c")
    fewer.maps = {"mask": (3, tuple("xy"))}
    told = r"in c .mask: 2 classes .x, y. from channel 3 on. than in a .mask: 3 classes"
    # A new one takes the channels in front of the maps.
    new = dict(network="resnet18", preprocessing=None, image_size=8)
    new |= dict(encoder_args={"width": 1 / 16})
    for given, settings, message in (
        (one, dict(map_start=None, validation_data=elsewhere), "another first channel"),
        (one, dict(map_start=None, validation_data=fewer), told),
        (plain, dict(map_start=None), "has no maps of classes to learn from"),
        (plain, dict(map_start=3), "map_start=3 received, but array has 3 channel"),
        (two, dict(map_start=None), "two has the maps one, other, expected one"),
        (None, dict(class_names=("a", "b")), "2 names, but the maps .* have 3 classes"),
        (None, dict(validation_data=plain), "have 3 channel.*, but array has 6"),
        (None, dict(recipe="simclr_digits"), "takes one whole view"),
        (None, dict(recipe="moco_v1"), "takes one whole view"),
        (None, dict(recipe=(data.View(size=8, brightness=0.4),)), "colours .jitter."),
        (None, dict(width=20), "width=20 received, expected a multiple of 16"),
        (None, dict(remat=True), "remat=True received, but a segmenter"),
        (None, dict(baseline=True), "baseline received without validation images"),
        (None, dict(validation_epochs=1), "validation_epochs=1 received, but there"),
        (None, new | dict(freeze="res9"), "freeze='res9' received, .*res5"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "refused", given, **settings)
    assert not (tmp_path / "refused" / "run.json").exists()


def test_names_of_classes_are_compared_where_there_are_some():
    one, other = (sources.ArraySource(images(seed=i), name="ab"[i]) for i in range(2))
    one.maps = {"mask": (3, ("red", "green", "blue"))}
    other.maps = {"objects": (3, ("0", "1", "2"))}
    for train, validation in ((one, other), (other, one)):
        mapped = segmenting.Maps().prepared(train, validation)
        assert mapped.class_names == next(iter(train.maps.values()))[1]
    other.maps = {"objects": (3, ("red", "blue", "green"))}
    with pytest.raises(ValueError, match="3 classes .red, blue, green. from channel 3"):
        segmenting.Maps().prepared(one, other)


def test_images_of_two_channels_are_drawn_by_the_first():
    views = np.random.default_rng(0).uniform(size=(2, 8, 8, 5)).astype("float32")
    nothing = np.full((2, 8, 8), 255)
    method = types.SimpleNamespace(
        judged=lambda view: tuple(map(tf.constant, (nothing, nothing, [0.0, 0.0])))
    )
    batch = {"image": tf.constant(views), "mask": tf.constant([True, True])}
    made = data.Preprocessing(size=8, channels=2)
    sheet = segmentation_results._sheet(method, [batch], made)
    expected = np.repeat(views[0, ..., :1], 3, axis=-1)
    np.testing.assert_allclose(sheet[:8, :8] / 255, expected, atol=0.01)


def test_another_baseline_is_found_before_the_training(tmp_path):
    other = tmp_path / "baseline" / "run.json"
    files.write_json(other, {"task": "finetune", "settings": {}})
    with pytest.raises(ValueError, match="baseline holds a training of another kind"):
        trained(tmp_path, baseline=True, validation_data=images(seed=1))
    assert os.listdir(tmp_path) == ["baseline"]
    assert os.listdir(tmp_path / "baseline") == ["run.json"]


def test_an_encoder_without_stages_or_of_grey_images_is_refused(tmp_path):
    def train(network, **given):
        made = data.Preprocessing(size=8, **given)
        trained(tmp_path / "refused", None, network, preprocessing=made)

    with pytest.raises(ValueError, match="names no stages .*; take one of tfssl's own"):
        train(networks.sequential())
    grey = staged.Staged((8, 8, 1))
    with pytest.raises(ValueError, match="of 1 channel.*, but those of array have 3"):
        train(grey, channels=1)


def test_an_encoder_is_no_segmenter(tmp_path):
    path = str(tmp_path / "encoder.keras")
    tfssl.formats.keras_file.save(encoder(), path, data.Preprocessing(size=8))
    with pytest.raises(ValueError, match="holds an encoder .* and no segmenter"):
        tfssl.load_segmenter(path)


def test_colours_are_vocs():
    found = np.round(255 * segmentation_results.colours(256)).astype(int)
    assert found[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert found[8].tolist() == [64, 0, 0] and found[255].tolist() == [224, 224, 192]
    white = np.ones((1, 1, 2, 3))
    over = segmentation_results.overlaid(white, np.array([[[255, 0]]]))
    np.testing.assert_allclose(over[0, 0], [[1, 1, 1], [0.4, 0.4, 0.4]])


@pytest.mark.slow
def test_an_encoder_that_learns_is_better_than_a_random_one(tmp_path):
    """Rendered scenes of six classes; the head learns on either of them."""
    found = {}
    for name, freeze in (("learned", "none"), ("random", "all")):
        run = train_segmenter.train_segmenter(
            "resnet18",
            "scenes",
            str(tmp_path / name),
            validation_split="test",
            encoder_args={"width": 1 / 8, "stem": "cifar"},
            image_size=32,
            width=32,
            freeze=freeze,
            epochs=6,
            learning_rate=3e-3,
            verbose=0,
        )
        found[name] = run.history[-1]["val_mean_iou"]
        assert run.encoder.network.class_names[:2] == ("floor", "wall")
    assert found["learned"] > found["random"] + 0.1, found


def test_validation_images_at_once_are_those_that_fit(monkeypatch):
    seen = []
    monkeypatch.setattr(
        segmenting.data_lib,
        "labeled",
        lambda *_, batch_size, **__: seen.append(batch_size),
    )
    for side, at_once in ((8, 64), (512, 2), (512, 100)):
        trainer = types.SimpleNamespace(workers=None, images_at_once=at_once)
        model = types.SimpleNamespace(
            encoder=types.SimpleNamespace(image_size=side), num_classes=150
        )
        plan = types.SimpleNamespace(epochs=1)
        watch = segmenting.Watch(plan, "source", None, every=1, max_bad_fraction=0.0)
        monkeypatch.setattr(segmenting.monitoring, "in_order", lambda *given: given)
        watch.callbacks(model, trainer, resumed=False)
    assert seen == [64, 2, 3]

"""Runs whose training images lie on the device."""

import functools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import copied_runs
from tests.tasks import pretrain_test
from tests.tasks.pretrain_test import TINY, assert_same_runs
from tfssl import files, replicas
from tfssl.tasks import held_images, pretrain

# Without affine maps, which stay on the host.
HELD = {"recipe": "moco_v2", "augment_on": "device", "images_on": "device"}


def pretrained(out, images=None, **settings):
    images = pretrain_test.images() if images is None else images
    return pretrain.pretrain(images, str(out), **TINY | HELD | settings)


def weights(run):
    return [variable.numpy() for variable in run.method.encoder.trainable_variables]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("held")


@pytest.fixture(scope="module")
def whole(folder):
    return copied_runs.whole(pretrained, folder)


def test_resume_equals_the_straight_run(whole, folder, tmp_path):
    parts = copied_runs.resumed(pretrained, folder, tmp_path / "parts")
    assert_same_runs(whole, parts)


@pytest.mark.slow
def test_resume_with_a_queue_equals_the_straight_run(tmp_path):
    case = dict(method="moco", hparams=dict(queue_size=16, projection_dim=8))
    assert_same_runs(*pretrain_test.straight_and_interrupted(tmp_path, **HELD | case))


def test_a_run_begun_there_goes_on_as_one_of_the_host(whole, folder, tmp_path):
    places = dict(augment_on="host", images_on="host")
    train = functools.partial(pretrained, **places)
    parts = copied_runs.resumed(train, folder, tmp_path / "parts")
    assert whole.method.images_on == "device" and parts.method.images_on == "host"
    for a, b in zip(weights(whole), weights(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(whole.history, parts.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


class _Begun(Exception):
    pass


class _Begin(keras.callbacks.Callback):
    """Ends a training as it begins."""

    def on_train_begin(self, logs=None):
        raise _Begun


def begun(out, images=None, **settings):
    """The method of a training, as it stands before the first step."""
    begin = _Begin()
    with pytest.raises(_Begun):
        pretrained(out, images, epochs=1, callbacks=[begin], **settings)
    return begin.model


def test_by_itself_a_gpu_gets_small_images(tmp_path, capsys, monkeypatch):
    """What a GPU turns on, on the CPU."""
    auto = dict(augment_on="auto", images_on="auto", jit_compile=False, verbose=1)
    assert begun(tmp_path / "cpu", **auto).images_on == "host"
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    run = pretrained(tmp_path / "small", epochs=1, **auto)
    assert run.method.images_on == "device"
    told = "on the device (augment_on=auto) of images that lie there (images_on=auto"
    assert told in capsys.readouterr().out
    record = files.read_json(os.path.join(run.path, "run.json"))
    assert record["versions"]["images_on"] == "device"
    assert record["settings"]["images_on"] == "auto"
    # What cannot lie there, or is not wanted there, stays with the host.
    turned = begun(tmp_path / "a", **auto, recipe="simclr_digits")
    assert turned.images_on == "host"
    kept = begun(tmp_path / "b", **auto | {"images_on": "host"})
    assert kept.augment_on == "device" and kept.images_on == "host"
    monkeypatch.setattr(held_images, "LIMIT", 40 * 8 * 8 - 1)
    assert begun(tmp_path / "c", **auto).images_on == "host"


@pytest.mark.parametrize("size", [8, 80])
def test_files_are_decoded_before_if_they_may_be_small_enough(
    size, tmp_path, monkeypatch
):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(16):
        image = np.full((size, size, 3), 15 * i, np.uint8)
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    auto = dict(augment_on="auto", images_on="auto", jit_compile=False)
    method = begun(tmp_path / "run", str(folder), **auto)
    assert method.images_on == ("device" if size == 8 else "host")
    assert method.held_bytes == (16 * 8 * 8 * 3 if size == 8 else 0)


def test_what_is_asked_for_and_cannot_be_is_refused_at_the_start(tmp_path):
    for options, words in [
        ({"recipe": "simclr_digits"}, "turns or shears"),
        ({"augment_on": "host"}, "set it to 'device'"),
    ]:
        out = tmp_path / words[:5]
        with pytest.raises(ValueError, match=f"images_on='device' received.*{words}"):
            pretrained(out, epochs=1, **options)
        assert not out.exists() or not os.listdir(out)
    plain = begun(tmp_path / "plain", augment=False)
    assert plain.images_on == "host"  # There is nothing to be made there.

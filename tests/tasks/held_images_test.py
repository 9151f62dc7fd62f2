"""Runs whose training images lie on the device."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import interrupted_runs
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


@pytest.mark.parametrize(
    "case", [{}, dict(method="moco", hparams=dict(queue_size=16, projection_dim=8))]
)
def test_resume_equals_the_straight_run(case, tmp_path):
    runs = pretrain_test.straight_and_interrupted(tmp_path, **HELD | case)
    assert_same_runs(*runs)


def test_a_run_begun_there_goes_on_as_one_of_the_host(tmp_path):
    def train(out, checkpoint_steps=None, **settings):
        place = "host" if checkpoint_steps is None else "device"
        places = dict(augment_on=place, images_on=place)
        saves = dict(checkpoint_steps=checkpoint_steps)
        return pretrained(out, **places, **saves, **settings)

    whole, parts = interrupted_runs.of(train, tmp_path)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(whole.history, parts.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_by_itself_a_gpu_gets_small_images(tmp_path, capsys, monkeypatch):
    """What a GPU turns on, on the CPU."""
    auto = dict(augment_on="auto", images_on="auto", jit_compile=False, verbose=1)
    assert pretrained(tmp_path, epochs=1, **auto).method.images_on == "host"
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    run = pretrained(tmp_path / "small", epochs=1, **auto)
    assert run.method.images_on == "device"
    told = "on the device (augment_on=auto) of images that lie there (images_on=auto"
    assert told in capsys.readouterr().out
    record = files.read_json(os.path.join(run.path, "run.json"))
    assert record["versions"]["images_on"] == "device"
    assert record["settings"]["images_on"] == "auto"
    # What cannot lie there, or is not wanted there, stays with the host.
    turned = pretrained(tmp_path / "a", epochs=1, **auto, recipe="simclr_digits")
    assert turned.method.images_on == "host"
    kept = pretrained(tmp_path / "b", epochs=1, **auto | {"images_on": "host"})
    assert kept.method.augment_on == "device" and kept.method.images_on == "host"
    monkeypatch.setattr(held_images, "LIMIT", 40 * 8 * 8 - 1)
    assert pretrained(tmp_path / "c", epochs=1, **auto).method.images_on == "host"


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
    run = pretrained(tmp_path / "run", str(folder), epochs=1, **auto)
    assert run.method.images_on == ("device" if size == 8 else "host")
    assert run.method.held_bytes == (16 * 8 * 8 * 3 if size == 8 else 0)


def test_what_is_asked_for_and_cannot_be_is_refused_at_the_start(tmp_path):
    for options, words in [
        ({"recipe": "simclr_digits"}, "turns or shears"),
        ({"augment_on": "host"}, "set it to 'device'"),
    ]:
        out = tmp_path / words[:5]
        with pytest.raises(ValueError, match=f"images_on='device' received.*{words}"):
            pretrained(out, epochs=1, **options)
        assert not out.exists() or not os.listdir(out)
    plain = pretrained(tmp_path / "plain", epochs=1, augment=False)
    assert plain.method.images_on == "host"  # There is nothing to be made there.

"""Real trainings whose input goes away: none waits for ever, and nothing is lost."""

import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import services
from tfssl.training import checkpoint

pytestmark = pytest.mark.slow  # Each starts processes, which takes most of a minute.


def started(out, *flags):
    command = [
        sys.executable, "-m", "pipelines.pretrain", "--encoder_arg=width=0.0625",
        "--encoder_arg=stem='cifar'", "--recipe=simclr_digits", "--image_size=8",
        "--channels=1", "--epochs=2000", "--batch_size=16", "--checkpoint_steps=2",
        "--optimizer=adamw", "--learning_rate=1e-3", "--lr_scaling=none",
        "--warmup_epochs=0", f"--out={out}", "--cache_gib=0", *flags,
    ]  # fmt: skip
    return processes.Worker(command, os.environ | {"PYTHONPATH": processes.ROOT})


def last_step(out):
    newest = checkpoint.latest(os.path.join(out, "checkpoints"))
    return int(newest.rpartition("-")[2]) if newest else 0


def wait_for_steps(run, out, count):
    """Returns when a run has saved `count` steps more than it had."""
    before = last_step(out)
    while last_step(out) < before + count:
        assert run.poll() is None, run.wait().stderr
        time.sleep(0.05)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(64):
        image = rng.integers(0, 255, (12, 12, 1)).astype(np.uint8)
        (folder / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    return folder


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "run")


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_images_that_are_deleted_stop_the_run_and_cost_no_step(photos, out, kind):
    data = str(photos)
    if kind == "records":
        records = photos.parent / "records"
        make = [sys.executable, "-m", "pipelines.make_tfrecords", f"--data={photos}"]
        make += [f"--out={records}", "--name=train"]
        end = processes.Worker(make, os.environ | {"PYTHONPATH": processes.ROOT}).wait()
        assert end.code == 0, end.stderr
        data = f"tfrecord:{records / 'train.json'}"
    run = started(out, f"--data={data}", "--max_bad_fraction=0.2")
    wait_for_steps(run, out, 4)
    shutil.rmtree(photos)
    shutil.rmtree(photos.parent / "records", ignore_errors=True)
    end = run.wait()
    assert end.code == 2, end.stderr
    assert "error: 13 of 64 images of" in end.stderr
    assert f"The input failed; saved step {last_step(out)}." in end.stderr
    assert "Traceback" not in end.stderr


def test_a_signal_is_heard_while_the_disk_hangs(photos, out):
    run = started(out, f"--data={photos}")
    wait_for_steps(run, out, 4)
    held = photos.parent / "held"
    shutil.copytree(photos, held)
    for file in photos.iterdir():
        os.mkfifo(f"{file}.pipe")
        os.replace(f"{file}.pipe", file)
    time.sleep(5)
    saved = last_step(out)
    run.send_signal(signal.SIGTERM)
    end = run.wait()
    assert end.code == 75, end.stderr
    assert "SIGTERM while waiting for input: saved step" in end.stderr
    assert last_step(out) >= saved
    shutil.rmtree(photos)
    held.rename(photos)
    run = started(out, f"--data={photos}")
    wait_for_steps(run, out, 4)
    run.send_signal(signal.SIGTERM)
    assert "Resuming at step" in run.wait().stdout


@pytest.mark.parametrize("again", [True, False], ids=["restarted", "killed"])
def test_a_data_service_that_is_killed(out, again):
    address, server = services.serving()
    flags = ("--data=digits", f"--data_service={address}")
    run = started(out, *flags)
    wait_for_steps(run, out, 4)
    server.send_signal(signal.SIGKILL)
    server.wait()
    if again:
        server = services.start(address.rpartition(":")[2])
    end = run.wait()
    assert end.code == 75, end.stderr
    told = "was lost or started anew" if again else "No data service answers"
    assert told in end.stderr and "saved step" in end.stderr, end.stderr
    if again:
        run = started(out, *flags)
        wait_for_steps(run, out, 4)
        run.send_signal(signal.SIGTERM)
        assert "Resuming at step" in run.wait().stdout
        server.send_signal(signal.SIGKILL)
        server.wait()

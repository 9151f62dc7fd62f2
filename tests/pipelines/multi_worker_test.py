"""Two workers as a user starts them: what they leave, and what survives a kill."""

import os
import signal
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tfssl import data
from tfssl.export import keras_file
from tfssl.models import norms
from tfssl.training import checkpoint

STEPS = 60  # 1297 images, 20 steps of 64 an epoch, 3 epochs.


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Function `out -> command` of one pre-training with a tiny encoder."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = norms.BatchNorm(statistics="global")(x)
    x = keras.layers.ReLU()(x)
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    path = str(tmp_path_factory.mktemp("encoder") / "tiny.keras")
    keras_file.save(encoder, path, data.Preprocessing(size=8, channels=1))
    flags = [
        "--strategy=multi_worker", "--data=digits", f"--encoder={path}",
        "--split=train", "--validation_split=test", "--knn_epochs=1",
        "--recipe=simclr_digits", "--image_size=8", "--epochs=3", "--batch_size=64",
        "--warmup_epochs=0.5", "--optimizer=adamw", "--learning_rate=1e-3",
        "--lr_scaling=none", "--checkpoint_steps=3", "--keep=2",
    ]  # fmt: skip
    return lambda out: [
        sys.executable, "-m", "pipelines.pretrain", *flags, f"--out={out}"
    ]  # fmt: skip


def last_step(out):
    newest = checkpoint.latest(os.path.join(out, "checkpoints"))
    return int(newest.rpartition("-")[2]) if newest else 0


def interrupted(command, out, worker, kind):
    """Starts two workers, sends one a signal once they have saved; their ends."""
    before = last_step(out)
    started = processes.start(2, command(out))
    while last_step(out) <= before and started[0].process.poll() is None:
        time.sleep(0.01)
    started[worker].process.send_signal(kind)
    return [one.wait() for one in started]


def weights(out):
    path = checkpoint.latest(os.path.join(out, "checkpoints"))
    reader = tf.train.load_checkpoint(os.path.join(path, "variables"))
    return {k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map()}


def test_lost_and_stopped_workers_resume_to_the_same_weights(command, tmp_path):
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    ends = processes.run(2, command(whole))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "126 negatives per anchor" in ends[0].stdout  # 2 * 64 - 2, over both.
    assert ends[1].stdout == ""
    expected = {"checkpoints", "encoder.keras", "metrics.jsonl", "run.flags"}
    assert expected | {"run.json", "tensorboard", "views.png"} == set(os.listdir(whole))
    assert len(os.listdir(os.path.join(whole, "tensorboard"))) == 1
    assert len(open(os.path.join(whole, "metrics.jsonl")).readlines()) == 3

    # SIGTERM reaches one worker; both stop after the same step, which is saved.
    ends = interrupted(command, parts, 1, signal.SIGTERM)
    assert [end.code for end in ends] == [75, 75], ends[0].stderr + ends[1].stderr
    told = f"SIGTERM: saved step {last_step(parts)}; start again to continue."
    assert told in ends[0].stderr and told in ends[1].stderr

    # kill -9: the other one ends with a sentence, and does not wait for ever.
    for victim in (1, 0):
        ends = interrupted(command, parts, victim, signal.SIGKILL)
        assert ends[victim].code == -signal.SIGKILL
        assert ends[1 - victim].code == 75, ends[1 - victim].stderr
        assert "error: A worker was lost" in ends[1 - victim].stderr
        assert "Traceback" not in ends[1 - victim].stderr
        assert last_step(parts) < STEPS

    ends = processes.run(2, command(parts))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "Resuming at step" in ends[0].stdout
    expected, found = weights(whole), weights(parts)
    assert set(expected) == set(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    different = [n for n in expected if not np.array_equal(expected[n], found[n])]
    print("not bit-equal:", different)

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
from tfssl import data, files
from tfssl.formats import keras_file
from tfssl.models import norms
from tfssl.training import checkpoint, history

STEPS = 60  # 1297 images, 20 steps of 64 an epoch, 3 epochs.


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Function `out, *flags -> command` of one pre-training with a tiny encoder."""
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
    return lambda out, *more: [
        sys.executable, "-m", "pipelines.pretrain", *flags, f"--out={out}", *more
    ]  # fmt: skip


def last_step(out):
    newest = checkpoint.latest(os.path.join(out, "checkpoints"))
    return int(newest.rpartition("-")[2]) if newest else 0


def interrupted(command, out, worker, kind, *flags):
    """Starts two workers, sends one a signal once they have saved; their ends."""
    before = last_step(out)
    started = processes.start(2, command(out, *flags))
    while last_step(out) <= before and started[0].poll() is None:
        time.sleep(0.01)
    started[worker].send_signal(kind)
    return [one.wait() for one in started]


def weights(out):
    path = checkpoint.latest(os.path.join(out, "checkpoints"))
    reader = tf.train.load_checkpoint(os.path.join(path, "variables"))
    return {k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map()}


def assert_same_history(whole, out):
    """Every line, but for speed, and the best checkpoint."""
    timing = {"images_per_second", "input_wait_share"}
    lines = [history.read(os.path.join(run, "metrics.jsonl")) for run in (whole, out)]
    for expected, found in zip(*lines, strict=True):
        numbers = {k: v for k, v in expected.items() if k not in timing}
        assert {k: v for k, v in found.items() if k not in timing} == pytest.approx(
            numbers, rel=1e-5
        )
    best = [
        files.read_json(os.path.join(run, "checkpoints", "best.json"))
        for run in (whole, out)
    ]
    assert best[0] == best[1]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A run that nothing happened to."""
    out = str(tmp_path_factory.mktemp("whole"))
    ends = processes.run(2, command(out))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "126 negatives per anchor" in ends[0].stdout  # 2 * 64 - 2, over both.
    assert ends[1].stdout == ""
    return out


def test_workers_that_were_started_otherwise_are_refused(command, tmp_path):
    """A rate changes the result, and of another number of epochs one would wait."""
    out = tmp_path / "out"
    ends = processes.run(2, command(out), ["--learning_rate=2e-3", "--epochs=4"])
    assert [end.code for end in ends] == [2, 2], ends[0].stderr + ends[1].stderr
    assert "A worker was started otherwise than the chief" in ends[0].stderr
    told = "Worker 1 was started otherwise than the chief: epochs is 3 there and 4 here"
    assert told in ends[1].stderr
    assert "learning_rate is 0.001 there and 0.002 here" in ends[1].stderr
    assert not out.exists()


def test_the_chief_alone_writes(whole):
    expected = {"checkpoints", "encoder.keras", "metrics.jsonl", "run.flags"}
    assert expected | {"run.json", "tensorboard", "views.png"} == set(os.listdir(whole))
    assert len(os.listdir(os.path.join(whole, "tensorboard"))) == 1
    assert keras_file.holds_head(os.path.join(whole, "encoder.keras"))
    assert len(open(os.path.join(whole, "metrics.jsonl")).readlines()) == 3


@pytest.mark.parametrize(
    "worker, kind",
    [
        (1, signal.SIGTERM),
        # Every start of two workers costs seconds.
        pytest.param(1, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_all_stop_and_resume_to_the_same_weights(
    command, whole, tmp_path, worker, kind
):
    out = str(tmp_path)
    ends = interrupted(command, out, worker, kind)
    told = [end.stderr for end in ends]
    assert 0 < last_step(out) < STEPS, told
    if kind == signal.SIGTERM:
        # It reaches one worker; both stop after the same step, which is saved.
        assert [end.code for end in ends] == [75, 75], told
        saved = f"SIGTERM: saved step {last_step(out)}; start again to continue."
        assert saved in told[0] and saved in told[1]
    else:
        # The other one ends with a sentence, and does not wait for ever.
        other = 1 - worker
        assert ends[worker].code == -signal.SIGKILL
        assert ends[other].code == 75, told[other]
        assert "error: A worker was lost" in told[other]
        assert "Traceback" not in told[other]
    ends = processes.run(2, command(out))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "Resuming at step" in ends[0].stdout
    expected, found = weights(whole), weights(out)
    assert set(expected) == set(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    assert_same_history(whole, out)


@pytest.mark.slow
@pytest.mark.parametrize("worker", [0, 1])
def test_a_kill_between_checkpoint_and_monitors_loses_no_epoch(
    command, whole, tmp_path, worker
):
    """The checkpoint of an epoch's last step is there before the monitors have run."""
    out = str(tmp_path)
    at_last_steps = "--checkpoint_steps=20"
    interrupted(command, out, worker, signal.SIGKILL, at_last_steps)
    assert last_step(out) % 20 == 0
    ends = processes.run(2, command(out, at_last_steps))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert_same_history(whole, out)


@pytest.mark.slow
def test_two_workers_fine_tune_like_one(command, tmp_path):
    """With a baseline, and after a SIGTERM that only one of them hears."""
    tiny = next(flag for flag in command("") if flag.startswith("--encoder="))

    def tune(out, *more):
        flags = [
            tiny, "--data=digits", "--split=train", "--validation_split=test",
            "--budget=20%", "--epochs=8", "--batch_size=32", "--mixup=0.2",
            "--optimizer=sgd", "--learning_rate=1e-3", "--checkpoint_steps=3",
            "--baseline", f"--out={out}", *more,
        ]  # fmt: skip
        return [sys.executable, "-m", "pipelines.finetune", *flags]

    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert processes.Worker(tune(one), os.environ).wait().code == 0
    several = "--strategy=multi_worker"
    ends = interrupted(tune, two, 1, signal.SIGTERM, several)
    assert [end.code for end in ends] == [75, 75], ends[0].stderr + ends[1].stderr
    ends = processes.run(2, tune(two, several))
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert ends[1].stdout == ""
    for part in ("", "baseline"):
        expected, found = (weights(os.path.join(out, part)) for out in (one, two))
        assert set(expected) == set(found)
        for name, value in expected.items():
            if not name.startswith("save_counter"):
                np.testing.assert_allclose(
                    found[name], value, rtol=1e-3, atol=1e-4, err_msg=name
                )
    results = [
        files.read_json(os.path.join(out, "classification.json"))["results"]
        for out in (one, two)
    ]
    assert set(results[0]) == set(results[1]) == {"fine-tuned", "from scratch"}

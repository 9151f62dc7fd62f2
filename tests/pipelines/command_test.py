"""What a binary says when its task fails, in this process."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags

from pipelines import command
from tests import processes
from tfssl import checks, data, processor
from tfssl.evaluation import features
from tfssl.training import checkpoint, saving


@pytest.fixture
def ends(monkeypatch, capsys):
    """`ends(main)` is `(exit code, stderr)` of a binary with this `main`."""
    monkeypatch.delenv("TFSSL_TRACEBACK", raising=False)
    monkeypatch.setattr(app, "run", lambda guarded, **_: guarded(["test"]))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])

    def run(main):
        with pytest.raises(SystemExit) as caught:
            command.run(main)
        return caught.value.code, capsys.readouterr().err

    return run


def test_a_sentence_of_tfssl_is_printed_as_it_is(ends):
    code, said = ends(lambda: checks.whole({"epochs": 0}, "epochs"))
    assert code == 2
    assert said == "error: epochs=0 received, expected a whole number, 1 or more.\n"


def test_a_sentence_from_a_function_that_autograph_rewrites(ends):
    """An encoder that gives a feature map."""
    images = keras.Input((8, 8, 3))
    encoder = keras.Model(images, keras.layers.Conv2D(4, 3)(images))
    dataset = data.labeled(
        data.open_source(np.zeros((3, 8, 8, 3), np.uint8)), data.Preprocessing(size=8)
    )
    code, said = ends(lambda: features.extract(encoder, dataset))
    assert code == 2 and said.count("\n") == 1
    assert said.startswith("error: The encoder gives (256, 6, 6, 4) for a batch")


def test_what_another_library_refuses_is_said_with_its_place(ends):
    code, said = ends(lambda: np.zeros(3).reshape(2))
    assert code == 2 and said.count("\n") == 1
    assert (
        "cannot reshape" in said and "not foreseen by tfssl; TFSSL_TRACEBACK=1" in said
    )


@pytest.mark.parametrize(
    "main, code, sentence",
    [
        (
            lambda: open("/no/where"),
            2,
            "'/no/where' cannot be read or written (No such",
        ),
        (lambda: open("/"), 2, "'/' cannot be read or written (Is a directory)"),
        (lambda: tf.io.gfile.makedirs("/proc/x"), 2, "'/proc/x' cannot be read or"),
        (lambda: _raise(OSError(28, os.strerror(28), "a")), 1, "No space left"),
        (lambda: np.zeros([10**6, 10**6, 100]), 1, "The memory is full"),
        (lambda: tf.zeros([10**6, 10**6, 100]), 1, "The memory is full"),
    ],
)
def test_storage_and_memory_end_in_one_sentence(ends, main, code, sentence):
    found, said = ends(main)
    assert (found, said.count("\n")) == (code, 1)
    assert said.startswith("error: ") and sentence in said


def test_a_bug_keeps_its_traceback_and_is_called_one(ends):
    for main in (lambda: 1 / 0, lambda: tf.zeros([2, 3]) @ tf.zeros([2, 3])):
        with pytest.raises((ZeroDivisionError, tf.errors.OpError)) as caught:
            ends(main)
        assert "This is a bug of tfssl" in caught.value.__notes__[0]


def test_a_traceback_on_demand(ends, monkeypatch):
    del ends
    monkeypatch.setenv("TFSSL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="epochs=0"):
        command.run(lambda: checks.whole({"epochs": 0}, "epochs"))


@pytest.mark.parametrize(
    "error, code, line",
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (saving.Interrupted("Ctrl-C: saved step 7."), 130, "Ctrl-C: saved step 7."),
        (saving.Preempted("SIGTERM: saved step 7."), 75, "SIGTERM: saved step 7."),
    ],
    ids=["Ctrl-C", "Ctrl-C after saving", "SIGTERM"],
)
def test_one_line_and_an_exit_code(ends, error, code, line):
    assert ends(lambda: _raise(error)) == (code, f"{line}\n")


@pytest.mark.parametrize(
    "cards, only_input, whole",
    [([], False, False), (["H200"], False, True), ([], True, True)],
)
def test_operations_are_not_split_where_the_cpu_only_makes_views(
    cards, only_input, whole, monkeypatch
):
    said = []
    monkeypatch.setattr(processor, "accelerators", lambda: cards)
    monkeypatch.setattr(
        processor, "one_thread_an_operation", lambda: said.append("whole")
    )
    monkeypatch.setattr(app, "run", lambda guarded, **_: guarded(["test"]))
    command.run(lambda: said.append("main"), only_input=only_input)
    assert said == ["whole"] * whole + ["main"]


@pytest.mark.slow
def test_ctrl_c_of_a_training_saves_and_the_same_command_goes_on(tmp_path):
    command = [
        sys.executable, "-m", "pipelines.pretrain", f"--out={tmp_path}",
        "--data=digits", "--recipe=simclr_digits", "--encoder_arg=width=0.0625",
        "--encoder_arg=stem='cifar'", "--image_size=8", "--batch_size=32",
        "--warmup_epochs=0", "--checkpoint_steps=7", "--epochs=3",
    ]  # fmt: skip
    folder = str(tmp_path / "checkpoints")
    process = processes.Worker(command, os.environ)
    while not checkpoint.latest(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    end = process.wait()
    assert end.code == 130, end.stderr
    step = checkpoint.latest(folder).rpartition("-")[2]
    assert end.stderr.splitlines()[-1] == (
        f"Ctrl-C: saved step {step}; start again to continue."
    )
    assert "Traceback" not in end.stderr
    done = processes.Worker(command, os.environ).wait()
    assert done.code == 0, done.stderr
    assert f"Resuming at step {step} from" in done.stdout


def _raise(error):
    raise error


def test_another_backend_of_keras_ends_a_binary_in_a_sentence():
    code = "import keras; keras.config.backend = lambda: 'torch'; import pipelines"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=processes.ROOT
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: tfssl.pretrain needs TensorFlow, but Keras runs on 'tor"
    )

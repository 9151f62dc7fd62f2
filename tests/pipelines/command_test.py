"""How a binary ends, by what its task raises."""

import signal
import subprocess
import sys
import time

import pytest

from pipelines import command
from tfssl.training import checkpoint, saving


@pytest.fixture
def ended(monkeypatch, capsys):
    """Function `error -> (exit code, stderr)` of a binary whose task raises it."""
    monkeypatch.setattr(command.app, "run", lambda guarded: guarded(["binary"]))

    def run(error):
        def main():
            raise error

        with pytest.raises(SystemExit) as end:
            command.run(main)
        return end.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error, code, line",
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (saving.Interrupted("Ctrl-C: saved step 7."), 130, "Ctrl-C: saved step 7."),
        (saving.Preempted("SIGTERM: saved step 7."), 75, "SIGTERM: saved step 7."),
        (ValueError("k=0 received"), 2, "error: k=0 received"),
    ],
    ids=["Ctrl-C", "Ctrl-C after saving", "SIGTERM", "bad input"],
)
def test_one_line_and_an_exit_code(ended, error, code, line):
    assert ended(error) == (code, f"{line}\n")


@pytest.mark.slow
def test_ctrl_c_of_a_training_saves_and_the_same_command_goes_on(tmp_path):
    command = [
        sys.executable, "-m", "pipelines.pretrain", f"--out={tmp_path}",
        "--data=digits", "--recipe=simclr_digits", "--encoder_arg=width=0.0625",
        "--encoder_arg=stem='cifar'", "--image_size=8", "--batch_size=32",
        "--warmup_epochs=0", "--checkpoint_steps=7", "--epochs=3",
    ]  # fmt: skip
    folder = str(tmp_path / "checkpoints")
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # It may be ignored here, as in a shell's background jobs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not checkpoint.latest(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    step = checkpoint.latest(folder).rpartition("-")[2]
    assert stderr.splitlines()[-1] == (
        f"Ctrl-C: saved step {step}; start again to continue."
    )
    assert "Traceback" not in stderr
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"Resuming at step {step} from" in done.stdout

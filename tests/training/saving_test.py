import os
import signal

import pytest

from tests.training.monitors_test import tiny_method
from tfssl import files
from tfssl.training import checkpoint, saving


@pytest.fixture(autouse=True)
def heard():
    """A shell's background job has Ctrl-C ignored; here it is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(kind=signal.SIGINT):
    os.kill(os.getpid(), kind)


def saver_of(tmp_path, **options):
    saver = saving.Saver(str(tmp_path), **options)
    saver.set_model(tiny_method())
    return saver


def test_the_first_ctrl_c_saves_and_the_second_ends_at_once(tmp_path, capfd):
    saver = saver_of(tmp_path)
    with saver.watching_signals():
        press()
        assert "saving after this step; once more ends at" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C: saved step 0; start agai"):
            saver.on_train_batch_end(0)
        with pytest.raises(KeyboardInterrupt):
            press()
    assert checkpoint.latest(str(tmp_path)).endswith("checkpoint-0")
    with pytest.raises(KeyboardInterrupt):  # As before, once the training has ended.
        press()


def test_an_ignored_ctrl_c_stays_ignored(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    saver = saver_of(tmp_path)
    with saver.watching_signals():
        press()
        saver.on_train_batch_end(0)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_sigterm_comes_before_ctrl_c(tmp_path):
    saver = saver_of(tmp_path)
    with saver.watching_signals(), pytest.raises(SystemExit) as end:
        press()
        press(signal.SIGTERM)
        saver.on_train_batch_end(0)
    assert end.value.code == 75


def test_the_best_is_that_of_the_history_whose_checkpoint_is_there(tmp_path):
    for step in (3, 6, 9):
        saver = saver_of(tmp_path)
        saver.model.step.assign(step)
        saver.save()
    lines = [
        {"step": 3, "knn_accuracy": 0.5},
        {"step": 4, "knn_accuracy": 0.9},
        {"step": 6, "knn_accuracy": 0.5},
        {"step": 9},
    ]
    (tmp_path / "best.json").write_text("")  # Cut short; nothing is lost.
    saver = saver_of(tmp_path, lines=lines, saved_step=9)
    assert saver.best == {"checkpoint": "checkpoint-3", "knn": 0.5}
    assert saver.best_path == str(tmp_path / "checkpoint-3")
    assert files.read_json(tmp_path / "best.json") == saver.best
    assert saver_of(tmp_path, lines=lines[1:2]).best is None


def test_what_is_saved_already_is_not_written_again(tmp_path):
    saver = saver_of(tmp_path, saved_step=0)
    saver.save(required=True)
    assert checkpoint.latest(str(tmp_path)) is None

"""Runs that end at the worst places: they go on as if nothing had happened."""

import errno
import json
import os
import signal

import pytest

from tests.tasks.clustering_test import CASES
from tests.tasks.pretrain_test import TINY, assert_same_runs, images
from tfssl import files
from tfssl.tasks import pretrain
from tfssl.training import checkpoint, monitors, saving
from tfssl.training import history as history_lib


class Killed(BaseException):
    """What `kill -9` would have done."""


ACCURACY = {5: 0.5, 10: 0.9, 15: 0.7, 20: 0.9}  # Step 10 is the best.


@pytest.fixture(autouse=True)
def known_accuracy(monkeypatch):
    def accuracy(self):
        return (ACCURACY[int(self.model.step.numpy())],)

    monkeypatch.setattr(monitors.OnlineKNN, "_accuracy", accuracy)


SETTINGS = TINY | {
    "epochs": 4,
    "validation_data": images(seed=1),
    "knn_epochs": 1,
    "keep": 2,
}  # 5 steps an epoch.
EVERY_EPOCH = {"checkpoint_epochs": 1}
AT_LAST_STEPS = {"checkpoint_epochs": 9, "checkpoint_steps": 5}
INSIDE = {"checkpoint_epochs": 9, "checkpoint_steps": 7}
AT_BEST_ONLY = {"checkpoint_epochs": 9}
FUSED = {"steps_per_execution": 5}
PROBE = {"online_probe_epochs": 1, "online_probe_data": images(n=30, seed=2)}


def before(owner, name, step, event=None):
    """Patch that kills the process as it calls `owner.name` at a step."""

    def install(patch):
        real = getattr(owner, name)

        def call(self, *args, **kwargs):
            if int(self.model.step.numpy()) == step:
                (event or kill)()
            return real(self, *args, **kwargs)

        patch.setattr(owner, name, call)

    return install


def after(owner, name, step, event=None):
    """Patch that kills the process as `owner.name` returns at a step."""

    def install(patch):
        real = getattr(owner, name)

        def call(self, *args, **kwargs):
            real(self, *args, **kwargs)
            if int(self.model.step.numpy()) == step:
                (event or kill)()

        patch.setattr(owner, name, call)

    return install


def around_best(when, count):
    """Patch that kills the process before or after best.json is written."""

    def install(patch):
        real, calls = files.write_json, []

        def call(path, value):
            mine = path.endswith("best.json")
            calls.extend([path] * mine)
            if when == "before" and mine and len(calls) == count:
                kill()
            real(path, value)
            if when == "after" and mine and len(calls) == count:
                kill()

        patch.setattr(files, "write_json", call)

    return install


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell's background job has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Function `method -> run` of a run that nothing happens to."""
    runs = {}

    def of(method):
        if method not in runs:
            out = str(tmp_path_factory.mktemp("whole"))
            settings = SETTINGS | PROBE | CASES.get(method, {}) | {"keep": 9}
            runs[method] = pretrain.pretrain(images(), out, **settings)
        return runs[method]

    return of


def best_of(out):
    with open(os.path.join(out, "checkpoints", "best.json")) as file:
        return json.load(file)


def read(out):
    with open(os.path.join(out, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


SIGTERM, CTRL_C = saving.Preempted, saving.Interrupted
_Saver, _History = saving.Saver, history_lib.History
# What ends the run, its settings, the exception, the step of its newest checkpoint.
ENDS = {
    "a checkpoint at an epoch's last step": (
        before(monitors.Collapse, "on_epoch_end", 10), AT_LAST_STEPS, Killed, 10),
    "monitors, no line": (
        before(_History, "on_epoch_end", 10), EVERY_EPOCH, Killed, 10),
    "the line": (
        after(_History, "on_epoch_end", 10), EVERY_EPOCH, Killed, 10),
    "a line without its checkpoint": (
        after(_History, "on_epoch_end", 15), INSIDE, Killed, 14),
    "the last epoch": (
        before(monitors.OnlineKNN, "on_epoch_end", 20), EVERY_EPOCH, Killed, 20),
    "no best.json": (
        around_best("before", 1), EVERY_EPOCH, Killed, 5),
    "a best checkpoint without best.json": (
        around_best("before", 2), AT_BEST_ONLY, Killed, 10),
    "best.json without the line": (
        around_best("after", 2), AT_BEST_ONLY, Killed, 10),
    "SIGTERM in an epoch's last step": (
        before(_Saver, "on_train_batch_end", 15, terminate), EVERY_EPOCH, SIGTERM, 15),
    "Ctrl-C in an epoch's last step": (
        before(_Saver, "on_train_batch_end", 10, interrupt), AT_BEST_ONLY, CTRL_C, 10),
    "SIGTERM inside an epoch": (
        before(_Saver, "on_train_batch_end", 12, terminate), INSIDE, SIGTERM, 12),
    "SIGTERM in fused steps": (
        before(_Saver, "on_train_batch_end", 10, terminate), FUSED, SIGTERM, 10),
    "a kill after fused steps": (
        before(monitors.Collapse, "on_epoch_end", 10), FUSED | INSIDE, Killed, 10),
}  # fmt: skip
_FAST = ("a checkpoint at an epoch's last step", "best.json without the line")


def case(method, end):
    fast = method == "simclr" and end in _FAST
    marks = () if fast else pytest.mark.slow  # Two runs each.
    return pytest.param(method, end, id=f"{method}: {end}", marks=marks)


@pytest.mark.parametrize(
    "method, end",
    [
        *(case("simclr", end) for end in ENDS),
        case("deepcluster", "a checkpoint at an epoch's last step"),
        case("deepcluster", "SIGTERM in an epoch's last step"),
        case("deepcluster_v2", "monitors, no line"),
        case("deepcluster_v2", "SIGTERM inside an epoch"),
    ],
)
def test_history_best_and_weights_are_those_of_a_straight_run(
    method, end, tmp_path, straight
):
    whole = straight(method)
    out = str(tmp_path)
    patched, changes, ends, at = ENDS[end]
    settings = SETTINGS | PROBE | CASES.get(method, {}) | changes
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        with pytest.raises(ends):
            pretrain.pretrain(images(), out, **settings)
    newest = checkpoint.latest(os.path.join(out, "checkpoints"))
    assert newest.endswith(f"checkpoint-{at}")
    parts = pretrain.pretrain(images(), out, **settings)
    assert_same_runs(whole, parts)
    assert read(out) == parts.history
    assert best_of(out) == best_of(whole.path)
    assert best_of(out) == {"checkpoint": "checkpoint-10", "knn": 0.9}
    best = os.path.join(out, "checkpoints", best_of(out)["checkpoint"])
    assert best in checkpoint.all_checkpoints(os.path.join(out, "checkpoints"))


@pytest.mark.parametrize(
    "method", ["simclr", pytest.param("deepcluster", marks=pytest.mark.slow)]
)
def test_a_full_disk_under_the_small_files_costs_nothing(
    method, tmp_path, monkeypatch, caplog
):
    real = files.write_text

    def write(path, text):
        if str(path).endswith(("metrics.jsonl", "best.json")):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, text)

    monkeypatch.setattr(files, "write_text", write)
    settings = SETTINGS | CASES.get(method, {}) | {"epochs": 2}
    run = pretrain.pretrain(images(), str(tmp_path), **settings)
    assert [line["step"] for line in run.history] == [5, 10]
    assert caplog.text.count("metrics.jsonl could not be written") == 2
    results = files.read_json(tmp_path / "run.json")["results"]
    assert results["steps"] == 10 and results["last_epoch"] == run.history[-1]
    assert results["best_knn"] == {"checkpoint": "checkpoint-10", "knn": 0.9}

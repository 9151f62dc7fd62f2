"""A start in an old folder: what it may change, and what a refusal leaves."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl import locks
from tfssl.tasks import evaluate, export, make_tfrecords, pretrain
from tfssl.training import checkpoint

SETTINGS = small.TINY | {"epochs": 2, "checkpoint_steps": 5, "keep": 9}


def start(out, **changes):
    arguments = {"data": small.images()} | SETTINGS | changes
    return pretrain.pretrain(out=str(out), **arguments)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 10 steps, not to be changed."""
    out = tmp_path_factory.mktemp("finished")
    start(out)
    return out


@pytest.fixture
def half(finished, tmp_path):
    """The same run as a process leaves it that is killed after step 5."""
    out = tmp_path / "half"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-10")
    (out / "encoder.keras").unlink()
    record = json.loads((out / "run.json").read_text())
    del record["results"]
    (out / "run.json").write_text(json.dumps(record))
    return out


def record_of(out):
    return json.loads((out / "run.json").read_text())


_DIFFERENT = {
    "data": ({"data": small.images(seed=3)}, "data is 'array, 40 images .* and 'array"),
    "more images": ({"data": small.images(n=44)}, "44 images"),
    "hold-out": ({"validation_fraction": 0.2}, r"\[training part\], 32 images"),
    "batch size": ({"batch_size": 4}, "batch_size is 8 there and 4 here"),
    "method": (
        {"method": "byol", "hparams": {"projection_dim": 8}},
        "method is 'simclr' there and 'byol' here; hparams.temperature is 0.5 there "
        "and None here",
    ),
    "temperature": (
        {"hparams": {"temperature": 7, "projection_dim": 8}},
        "other settings: hparams.temperature is 0.5 there and 7 here. Start with those "
        r"of that run, .* allow the change: --allow_changes=hparams\.$",
    ),
    "several": (
        {"seed": 5, "learning_rate": 0.5, "precision": "mixed_bfloat16"},
        "learning_rate is 0.001 there and 0.5 here; precision is 'float32' .*; seed is "
        "0 there and 5 here.*--allow_changes=learning_rate,precision,seed",
    ),
    "some allowed": (
        {"seed": 5, "epochs": 3, "allow_changes": ("epochs",)},
        "settings: seed is 0 there and 5 here. .*--allow_changes=epochs,seed",
    ),
    "recipe": (
        {"recipe": "simclr_cifar10"},
        r"view 0.area is \[0.75, 1.0\] there and \[0.08, 1.0\] here; .*; \d+ more of "
        "recipe. Start",
    ),
    "image size": ({"image_size": 12}, "view 0.size is 8 there and 12 here"),
    "no views": ({"augment": False}, "augment is True there and False here"),
    "encoder": ({"encoder": "resnet18"}, "encoder is '<lambda>' there and 'resnet18'"),
    "init_from": ({"init_from": "/nowhere"}, "init_from is None there and '/nowhere'"),
    "no resume": ({"resume": False, "seed": 1}, "resume is off"),
    "unknown name": (
        {"allow_changes": ("lr",)},
        "allow_changes='lr' received, expected",
    ),
}


@pytest.mark.parametrize("case", _DIFFERENT)
def test_other_settings_are_refused_and_nothing_is_written(finished, case):
    changes, sentence = _DIFFERENT[case]
    before, calls = contents(finished), []
    with pytest.raises(ValueError, match=sentence):
        start(finished, on_accept=lambda: calls.append(1), **changes)
    assert contents(finished) == before and not calls


def test_a_finished_run_is_left_alone(finished, capsys):
    before, calls = contents(finished), []
    free = {"keep": 1, "checkpoint_steps": None, "jit_compile": True, "verbose": 2}
    run = start(finished, on_accept=lambda: calls.append(1), **free)
    assert contents(finished) == before and not calls
    told = capsys.readouterr().out
    assert f"{finished} is finished, step 10: nothing to train." in told
    assert len(run.history) == 2 and int(run.method.step.numpy()) == 10


def test_changes_that_are_asked_for_are_recorded(half):
    calls = []
    names = ("learning_rate", "epochs")
    changes = {"learning_rate": 1e-4, "epochs": 3, "allow_changes": names}
    run = start(half, on_accept=lambda: calls.append(1), **changes)
    assert int(run.method.step.numpy()) == 15 and calls == [1]
    record = record_of(half)
    assert record["settings"]["learning_rate"] == 1e-4
    assert record["results"]["steps"] == 15
    assert record["changes"] == [
        {"step": 5, "setting": "epochs", "before": 2, "now": 3},
        {"step": 5, "setting": "learning_rate", "before": 1e-3, "now": 1e-4},
    ]
    # The new settings are the run's from now on.
    before = contents(half)
    with pytest.raises(ValueError, match="epochs is 3 there and 2 here"):
        start(half)
    start(half, **changes | {"allow_changes": ()})
    assert contents(half) == before


def test_epochs_of_another_length_are_said(half, caplog):
    run = start(half, batch_size=4, epochs=1, allow_changes=("batch_size", "epochs"))
    told = [m for m in caplog.messages if m.startswith("An epoch has 10 steps")]
    assert told == ["An epoch has 10 steps, and had 5: step 5 is epoch 0.50 now."]
    assert [line["epoch"] for line in run.history] == [1.0, 1.0]
    assert [c["setting"] for c in record_of(half)["changes"]] == [
        "epochs",
        "batch_size",
    ]


def test_steps_that_are_more_than_all_epochs_now_are_refused(half):
    """Of two epochs one was done, of five steps; now an epoch has two."""
    before = contents(half)
    with pytest.raises(ValueError, match=r"The 5 steps of .* are epoch 2.50 of 2 with"):
        start(half, batch_size=20, allow_changes=("batch_size",))
    assert contents(half) == before


def test_epochs_that_become_shorter_have_no_line_without_a_mean(half):
    """Step 5 was inside of an epoch of 10 steps, and ends one of 5 now."""
    record = record_of(half)
    record["made"]["steps_per_epoch"] = 10
    (half / "run.json").write_text(json.dumps(record))
    (half / "metrics.jsonl").unlink()
    run = start(half)
    assert [line["step"] for line in run.history] == [10]
    assert run.history[0]["loss"] > 0


def test_an_epoch_that_ended_before_its_length_changed_has_its_mean(half):
    """Its monitors had not run; step 5 ends an epoch of one step, too."""
    text = (half / "metrics.jsonl").read_text()
    (half / "metrics.jsonl").unlink()
    record = record_of(half)
    record["made"]["steps_per_epoch"] = 1
    (half / "run.json").write_text(json.dumps(record))
    run = start(half)
    before = [json.loads(line) for line in text.splitlines()]
    assert [line["loss"] for line in run.history] == [line["loss"] for line in before]


def test_without_a_checkpoint_a_start_is_new(half):
    shutil.rmtree(half / "checkpoints")
    start(half, seed=7, epochs=1)
    record = record_of(half)
    assert record["settings"]["seed"] == 7 and record["changes"] == []
    # But a result is not replaced by another one.
    shutil.rmtree(half / "checkpoints")
    with pytest.raises(ValueError, match="seed is 7 there and 0 here"):
        start(half, epochs=1)


@pytest.fixture
def bare(finished, tmp_path):
    """A finished run without its checkpoints."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "checkpoints")
    return out


@pytest.mark.parametrize("file", ["encoder", "tokenizer", "segmenter"])
def test_a_finished_run_without_its_checkpoints_is_not_trained_again(bare, file):
    (bare / "encoder.keras").rename(bare / f"{file}.keras")
    before = contents(bare)
    longer = {"epochs": 3, "allow_changes": ("epochs",)}
    for changes in ({}, longer, {"resume": False}):
        with pytest.raises(
            ValueError,
            match=f"is finished and has no checkpoint left .* replace .*{file}",
        ):
            start(bare, **changes)
    assert contents(bare) == before


def test_where_nothing_is_lost_by_it_a_finished_run_is_trained_again(bare):
    (bare / "encoder.keras").unlink()
    assert len(start(bare).history) == 2


def test_images_that_moved_are_the_same(tmp_path):
    for i, image in enumerate(small.images(n=24)[0]):
        path = tmp_path / "here" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())
    out = tmp_path / "run"
    start(out, data=str(tmp_path / "here"), channels=1, epochs=1)
    (tmp_path / "here").rename(tmp_path / "there")
    changes = {"data": str(tmp_path / "there"), "channels": 1, "labels": "folders"}
    start(out, epochs=1, **changes)
    (tmp_path / "there" / "0" / "2.png").rename(tmp_path / "there" / "0" / "z.png")
    with pytest.raises(ValueError, match="data is .*here, 24.* and .*there, 24"):
        start(out, epochs=1, **changes)


_NEVER_MADE = {
    "encoder": {"encoder": "resnet19"},
    "hparam": {"hparams": {"tau": 1}},
    "init_from": {"init_from": "/nowhere"},
    "negatives": {"method": "moco", "hparams": {"queue_size": 4}},
    "unreadable": {"data": "BAD", "channels": 1},
}


@pytest.mark.parametrize("case", _NEVER_MADE)
def test_a_refused_start_makes_no_folder(tmp_path, case):
    changes = dict(_NEVER_MADE[case])
    if changes.get("data") == "BAD":
        (tmp_path / "bad").mkdir()
        for i in range(16):
            (tmp_path / "bad" / f"{i}.png").write_bytes(b"not an image")
        changes["data"] = str(tmp_path / "bad")
    with pytest.raises(ValueError):
        start(tmp_path / "new" / "run", **changes)
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_refused(finished, tmp_path):
    before = contents(finished)
    with locks.hold(finished):
        for call in (
            lambda: start(finished),
            lambda: evaluate.evaluate(str(finished), verbose=0),
        ):
            with pytest.raises(ValueError, match="is in use by process .* on .* since"):
                call()
    assert contents(finished) == before
    with locks.hold(tmp_path, "images"):
        with pytest.raises(ValueError, match="/images is in use by process"):
            make_tfrecords.make_tfrecords("digits", str(tmp_path), verbose=0)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".images.lock"]
        make_tfrecords.make_tfrecords(
            small.images(), str(tmp_path), name="other", num_shards=1, verbose=0
        )


def test_the_parts_of_a_living_process_stay(half):
    part = half / "checkpoints" / ".part-6"
    part.mkdir()
    with locks.hold(half), pytest.raises(ValueError, match="in use"):
        start(half)
    assert part.exists()
    start(half)  # Its process is gone.
    assert not part.exists()


def test_a_run_of_an_older_version_goes_on(half):
    record = record_of(half)
    for key in ("max_bad_fraction", "lr_final", "online_probe_steps"):
        del record["settings"][key]
    del record["made"], record["changes"]
    record["settings"]["data"] = ["ndarray", "ndarray"]
    (half / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        start(half, seed=1)
    run = start(half)
    assert int(run.method.step.numpy()) == 10
    record = record_of(half)
    del record["settings"]["max_bad_fraction"]
    (half / "run.json").write_text(json.dumps(record))
    rows = evaluate.evaluate(
        str(half),
        data=small.images(),
        validation_data=small.images(seed=1),
        budgets=("100%",),
        baselines=(),
        verbose=0,
    )
    assert rows and record_of(half)["evaluation"] == rows


@pytest.mark.parametrize("content", ["", '{"settings": {"data": "di', "[]"])
def test_a_damaged_record_is_named(finished, half, content):
    (half / "run.json").write_text(content)
    before = contents(half)
    with pytest.raises(ValueError, match=r"half/run.json is .*damaged.*; put a copy"):
        start(half)
    assert contents(half) == before
    shutil.copy(finished / "encoder.keras", half)
    for call in (
        lambda: evaluate.evaluate(str(half), verbose=0),
        lambda: export.export(str(half), str(half / "models")),
    ):
        with pytest.raises(
            ValueError, match=r"half/run.json is .*damaged.*; put a cop"
        ):
            call()


def test_a_run_goes_on_without_a_record(half):
    """As the sentence about a damaged one says."""
    (half / "run.json").unlink()
    assert int(start(half).method.step.numpy()) == 10
    assert record_of(half)["results"]["steps"] == 10


def test_a_damaged_best_is_written_anew(half):
    (half / "checkpoints" / "best.json").write_text("")
    changes = {"validation_data": small.images(seed=1), "knn_epochs": 1}
    start(half, **changes)
    best = json.loads((half / "checkpoints" / "best.json").read_text())
    assert best["checkpoint"] == "checkpoint-10"
    assert checkpoint.latest(str(half / "checkpoints")).endswith("-10")


def test_a_run_on_images_in_memory_asks_for_images(finished, tmp_path):
    sentence = r"on images in memory \(ndarray, ndarray\).*pass data=… \(--data\)"
    with pytest.raises(ValueError, match=sentence):
        evaluate.evaluate(str(finished), verbose=0)
    for wish in ({"check": True}, {"warmup": 1}):
        with pytest.raises(ValueError, match=sentence):
            export.export(str(finished), str(tmp_path / "models"), **wish)
    assert not (tmp_path / "models").exists()
    for source in (finished, finished / "encoder.keras"):
        export.export(
            str(source), str(tmp_path / "models"), name="m", check=True,
            data=np.asarray(small.images()[0]),
        )  # fmt: skip

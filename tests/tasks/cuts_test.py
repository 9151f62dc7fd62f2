"""Two trainings on the same images hold out the same of them, or it is said."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import finetune_test
from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl.tasks import cuts, finetune, judged_images, pretrain

HELD = dict(
    data="digits",
    split="train",
    data_dir=None,
    data_args=None,
    validation_fraction=0.1,
    seed=0,
    labels="auto",
)


@pytest.fixture
def folder(tmp_path):
    """A folder of images whose classes are folders, by two names."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    return tmp_path


def told(tmp_path, caplog, earlier, before, task, now):
    record = {"task": earlier, "settings": HELD | before}
    (tmp_path / "run.json").write_text(json.dumps(record))
    caplog.clear()
    cuts.check(tmp_path, "encoder", task, HELD | now)
    return [line.getMessage() for line in caplog.records]


@pytest.mark.parametrize(
    "earlier, before, task, now",
    [
        ("pretrain", {}, "finetune", {}),
        ("finetune", {}, "distill", {}),
        ("finetune", {"seed": 1}, "distill", {"seed": 1}),
        # Nothing is held out here, or other images are read.
        ("pretrain", {"seed": 1}, "finetune", {"validation_fraction": 0.0}),
        ("pretrain", {"split": "test", "seed": 1}, "finetune", {}),
        ("pretrain", {"data": "scenes", "seed": 1}, "finetune", {}),
    ],
)
def test_the_same_part_and_other_images_need_no_words(
    earlier, before, task, now, tmp_path, caplog
):
    assert told(tmp_path, caplog, earlier, before, task, now) == []


@pytest.mark.parametrize(
    "earlier, before, task, now, words",
    [
        (
            "pretrain",
            {"seed": 1},
            "finetune",
            {},
            "learned from images that validate here: of the same digits it held out "
            r"another part \(validation_fraction=0.1, seed=1, labels=auto\). Hold",
        ),
        ("finetune", {}, "distill", {"seed": 1}, "images with labels that validate"),
        ("pretrain", {"validation_fraction": 0.0}, "finetune", {}, "held out none"),
        ("pretrain", {"labels": "none"}, "pretrain", {}, "labels=none"),
    ],
)
def test_another_part_is_said(earlier, before, task, now, words, tmp_path, caplog):
    (line,) = told(tmp_path, caplog, earlier, before, task, now)
    assert line.startswith(f"encoder={tmp_path} ")
    assert re.search(words, line), line


def test_a_folder_is_one_of_classes_for_what_learns_from_them(folder, caplog):
    """By another name it holds the same images."""
    there, here = {"data": str(folder / "photos")}, {"data": str(folder / "link")}
    found = told(folder, caplog, "pretrain", there, "finetune", here)
    told_of = "held out another part (validation_fraction=0.1, seed=0, labels=none)"
    assert told_of in found[0]
    assert told(folder, caplog, "pretrain", there, "pretrain", here) == []
    unlabelled = here | {"labels": "none"}
    assert told(folder, caplog, "pretrain", there, "pretrain", unlabelled) == []
    here = {"data": f"folder:{folder / 'photos'}"}
    there["labels"] = "folders"
    assert told(folder, caplog, "pretrain", there, "finetune", here) == []
    assert told(folder, caplog, "finetune", there, "distill", here) == []


def test_a_start_says_it_before_anything_is_written(tmp_path, caplog):
    run = tmp_path / "run"
    run.mkdir()
    finetune_test.encoder().save(str(run / "encoder.keras"))
    record = {"settings": HELD | {"validation_fraction": 0.0, "split": None}}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="freeze"):
        finetune.finetune(
            str(run),
            "digits",
            str(tmp_path / "out"),
            validation_fraction=0.1,
            freeze="no such stage",
            verbose=0,
        )
    assert "it held out none" in caplog.text
    assert not (tmp_path / "out").exists()


def _clips(folder, clips=10):
    """A manifest of clips of four frames, every second one of class 1."""
    rows = ["path,label,clip"]
    for place, image in enumerate(np.repeat(small.images(n=clips)[0], 4, axis=0)):
        image[0, 0] = place
        (folder / f"{place}.png").write_bytes(tf.io.encode_png(image).numpy())
        rows.append(f"{place}.png,{place // 4 % 2},{place // 4}")
    (folder / "list.csv").write_text("\n".join(rows))
    return str(folder / "list.csv")


@pytest.fixture(scope="module")
def trained_on_clips(tmp_path_factory):
    """The arguments of a run that held out clips; it is not to be changed."""
    folder = tmp_path_factory.mktemp("clips")
    arguments = {
        **small.TINY,
        "data": _clips(folder),
        "out": str(folder / "run"),
        "validation_fraction": 0.2,
        "channels": 1,
        "epochs": 1,
    }
    pretrain.pretrain(**arguments)
    return arguments


@pytest.fixture
def of_clips(trained_on_clips, tmp_path):
    """A copy of that run, and the arguments of its start."""
    out = shutil.copytree(trained_on_clips["out"], tmp_path / "run")
    return out, trained_on_clips | {"out": str(out)}


def _as_older(run):
    """Makes its record that of a version which parted clips."""
    record = json.loads((run / "run.json").read_text())
    assert record["made"].pop("holdout") == "whole clips"
    record["made"]["images"]["identity"] = "0" * 64
    (run / "run.json").write_text(json.dumps(record))


def _judged(run, **arguments):
    preprocessing = data_lib.Preprocessing(size=8, channels=1)
    images = judged_images.JudgedImages(**arguments)
    return images.open(str(run), preprocessing, seed=0, verbose=0)


def test_a_run_that_parted_clips_is_not_gone_on_with(of_clips):
    run, arguments = of_clips
    assert _judged(run).test.num_images == 8
    _as_older(run)
    before = (run / "run.json").read_bytes()
    told = f"{run} held out some of its images without regard to clips"
    for changes in ({"epochs": 2}, {"epochs": 2, "allow_changes": ("data",)}):
        with pytest.raises(ValueError, match=told):
            pretrain.pretrain(**arguments | changes)
    assert (run / "run.json").read_bytes() == before
    for task in ("pretrain", "finetune"):
        record = json.loads(before) | {"task": task}
        (run / "run.json").write_text(json.dumps(record))
        for given in ({}, {"data": arguments["data"]}):
            with pytest.raises(ValueError, match=told):
                _judged(run, **given)


def test_a_training_that_begins_with_one_that_parted_clips_says_so(of_clips, caplog):
    run, arguments = of_clips
    given = arguments | {"init_from": str(run), "split": None, "labels": "auto"}
    train, _ = data_lib.holdout(
        data_lib.open_source(arguments["data"], channels=1), fraction=0.2, seed=1
    )
    cuts.check_parted("pretrain", given, train)
    assert not caplog.messages
    _as_older(run)
    cuts.check_parted("pretrain", given | {"seed": 9}, train)  # `check` says so.
    cuts.check_parted("pretrain", given | {"validation_fraction": 0.0}, train)
    assert not caplog.messages
    cuts.check_parted("pretrain", given | {"seed": 0}, train)
    (line,) = caplog.messages
    told = f"init_from={run} may have learned from images that validate here"
    assert line.startswith(told)
    caplog.clear()

    def stop():
        raise KeyboardInterrupt

    begun = {"out": f"{run}2", "init_from": str(run), "on_accept": stop}
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(**arguments | begun)
    assert told in caplog.text

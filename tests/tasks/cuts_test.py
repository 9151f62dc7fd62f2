"""Two trainings on the same images hold out the same of them, or it is said."""

import json
import re

import pytest

from tests.tasks import finetune_test
from tfssl.tasks import cuts, finetune

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

import json
import re
import shutil

import numpy as np
import pytest

from tests.tasks import pretrain_test as small
from tests.tasks.evaluate_test import evaluated
from tfssl import data as data_lib
from tfssl.tasks import evaluate


def test_partly_labelled_data_is_judged_by_its_labelled_part(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")

    def partly(seed):
        """Every other image is noise of no label."""
        pixels, labels = small.images(seed=seed)
        noise = np.random.default_rng(seed).permutation(pixels, axis=1)
        mixed = np.stack([noise, pixels], axis=1).reshape(-1, *pixels.shape[1:])
        return mixed, np.stack([np.full(40, -1), labels], axis=1).reshape(-1)

    options = {"clusters": 2, "baselines": ("raw_pixels", "supervised")}
    options |= {"budgets": ("1", "100%")}
    rows = evaluated(
        copy, data=partly(0), validation_data=partly(1), verbose=1, **options
    )
    printed = capsys.readouterr().out
    for part in ("training", "validation"):
        assert f"the 40 of 80 {part} images of array that have a label" in printed
    hashes = re.compile("label lists.*")
    for row, expected in zip(rows, evaluated(run, **options), strict=True):
        for found in (row, expected):
            found["protocol"] = hashes.sub("", found["protocol"])
        assert row == expected
    source = data_lib.open_source(partly(0))
    selection = data_lib.labels.load(copy / "labels" / "1_per_class-0.json", source)
    assert sorted(source.labels[selection.indices]) == [0, 1]


def test_classes_are_matched_by_name(run):
    (pixels, labels), (queries, others) = small.images(), small.images(seed=1)
    names = ("dark", "bright")
    rows = evaluated(
        run,
        data=data_lib.sources.ArraySource(pixels, labels, class_names=names),
        validation_data=data_lib.sources.ArraySource(
            queries, 1 - others, class_names=names[::-1]
        ),
        budgets=("100%",),
        baselines=("raw_pixels",),
    )
    raw = {r["probe"]: r["accuracy"] for r in rows if r["features"] == "raw pixels"}
    assert raw == {"kNN": 1.0, "linear": 1.0}


class Named(data_lib.sources.ArraySource):
    """Pixels that have the names of files, without the time that decoding takes."""

    has_names = True

    def describe(self, index):
        return f"/images/train{index}.png"


@pytest.fixture
def write(tmp_path):
    """Writes a list of images; returns its path."""

    def written(*places):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"train{place}.png\n" for place in places))
        return path

    return written


def listed(run, label_list, **arguments):
    arguments = {"data": Named(*small.images()), "budgets": None} | arguments
    return evaluated(run, label_list=label_list, baselines=(), **arguments)


def test_a_list_of_files_is_a_budget_of_its_own(run, write, tmp_path):
    chosen = [0, 1, 4, 7, 12, 13]
    rows = listed(run, write(*chosen), out=tmp_path)
    assert [row["labels"] for row in rows] == ["list list.txt"] * 2
    assert [(row["probe"], row["draws"]) for row in rows] == [("kNN", 1), ("linear", 1)]
    assert "weighted kNN, k 6," in rows[0]["protocol"]
    assert "6 train / 40 test images" in rows[1]["protocol"]
    saved = tmp_path / "labels" / "list_list.txt-0.json"
    source = data_lib.open_source(small.images())
    assert data_lib.labels.load(saved, source).indices.tolist() == chosen
    # What an evaluation has left is a list as well.
    again = listed(run, saved, data=small.images())
    assert {row["labels"] for row in again} == {"list list_list.txt-0.json"}
    for row, expected in zip(again, rows, strict=True):
        assert row | {"labels": "list list.txt"} == expected


def test_a_list_stands_beside_the_budgets_that_are_given(run, write, capsys):
    rows = listed(run, write(0, 1), budgets=("100%",), verbose=1)
    assert [row["labels"] for row in rows] == ["100 %"] * 2 + ["list list.txt"] * 2
    table = capsys.readouterr().out.splitlines()[-4:-1]
    column = table[0].index("features")
    assert [line.index("pre-trained") for line in table[1:]] == [column] * 2


@pytest.mark.parametrize(
    "places, changes, sentence",
    [
        (("40", 0), {}, "names 'train40.png', which .* does not have"),
        ((0, 2), {}, r"images of one class only \(0\), expected two"),
        ((), {}, "chooses no image"),
        ((0,), {"data": small.images()}, "images of array have no names"),
    ],
)
def test_lists_that_fit_no_images(run, write, places, changes, sentence, monkeypatch):
    monkeypatch.setattr(  # What is wrong is found before the first pass.
        evaluate.evaluation_features, "of_networks", lambda *_, **__: 1 / 0
    )
    with pytest.raises(ValueError, match=sentence):
        listed(run, write(*places), **changes)


def test_lists_of_labels_are_those_of_one_evaluation(run, tmp_path):
    def few(**changes):
        settings = {"budgets": ("3",), "draws": 1, "probes": ("knn",), "baselines": ()}
        evaluated(run, out=tmp_path, **settings | changes)

    def names():
        return {path.name for path in lists.iterdir()}

    lists = tmp_path / "labels"
    few(budgets=("3", "50%"), draws=2)
    expected = ("3_per_class-0", "3_per_class-1", "50_percent-0", "50_percent-1")
    assert names() == {f"{name}.json" for name in expected}
    (lists / "mine-0.json").write_text("{}")
    few(seed=7)
    assert names() == {"3_per_class-0.json", "mine-0.json"}
    stored = json.loads((tmp_path / "evaluation.json").read_text())["label_lists"]
    of_file = json.loads((lists / "3_per_class-0.json").read_text())
    assert of_file["description"].endswith("seed 7")
    assert len(stored["3 per class"]) == 1
    # A list that is asked for stays, though another evaluation has written it.
    given = lists / "3_per_class-0.json"
    few(budgets=None, label_list=str(given))
    written = "list_3_per_class-0.json-0.json"
    assert names() == {"3_per_class-0.json", "mine-0.json", written}

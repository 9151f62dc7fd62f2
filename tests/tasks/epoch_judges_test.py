"""The best epoch is one among those that the same images have judged."""

import json
import shutil

import numpy as np
import pytest

from tests.tasks import finetune_test, train_segmenter_test
from tests.tasks import pretrain_test as small
from tfssl import data, files
from tfssl.tasks import epoch_judges, pretrain, runs

WATCHED = {"knn_epochs": 1, "checkpoint_steps": 5, "keep": 9}
FIRST, OTHER = small.images(seed=1), small.images(n=24, seed=2)
OTHER_LABELS = FIRST[0], 1 - FIRST[1]


def start(out, epochs, **changes):
    settings = small.TINY | WATCHED | {"validation_data": FIRST} | changes
    longer = {"epochs": epochs, "allow_changes": ("epochs",)}
    return pretrain.pretrain(small.images(), str(out), **settings | longer)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Two epochs, the first of them better than any that follows can be."""
    out = tmp_path_factory.mktemp("begun")
    start(out, 2)
    lines = [json.loads(line) for line in open(out / "metrics.jsonl")]
    lines[0]["knn_accuracy"] = 2.0
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    files.write_text(out / "metrics.jsonl", text)
    return out


@pytest.fixture
def half(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def best(out):
    return files.read_json(out / "checkpoints" / "best.json")


def changed(out):
    record = runs.record_of(out)
    return [(c["step"], c["setting"]) for c in record["changes"]]


@pytest.mark.parametrize(
    "changes, setting",
    [
        ({"validation_data": OTHER}, "validation_data"),
        # What differs in them is compared below, too.
        pytest.param(
            {"validation_data": OTHER_LABELS},
            "validation_data",
            marks=pytest.mark.slow,
        ),
        pytest.param({"knn_k": 3}, "knn_k", marks=pytest.mark.slow),
    ],
)
def test_the_best_is_one_of_those_judged_alike(half, changes, setting, caplog):
    start(half, 3, **changes)
    assert best(half)["checkpoint"] == "checkpoint-15"
    assert changed(half) == [(10, "epochs"), (10, setting)]
    told = "Epochs are judged otherwise after step 10: " + setting
    assert told in caplog.text
    # And so it stays, also where nothing judges for a while.
    start(half, 4, knn_epochs=0)
    assert best(half)["checkpoint"] == "checkpoint-15"
    start(half, 5, **changes)
    assert best(half)["checkpoint"] in ("checkpoint-15", "checkpoint-25")
    assert [c for c in changed(half) if c[1] == setting] == [(10, setting)]
    results = runs.record_of(half)["results"]
    assert results["best_knn"] == best(half)
    (note,) = epoch_judges.earlier(runs.record_of(half))
    assert note.startswith(f"Up to step 10 epochs were judged by {setting}=")


def test_the_same_images_go_on_judging(half):
    start(half, 3, validation_data=tuple(map(np.copy, FIRST)))
    assert best(half) == {"checkpoint": "checkpoint-5", "knn": 2.0}
    assert changed(half) == [(10, "epochs")]


def test_a_finished_run_keeps_its_best(half):
    start(half, 2, validation_data=OTHER)
    assert best(half) == {"checkpoint": "checkpoint-5", "knn": 2.0}
    assert not changed(half)


def stop():
    raise KeyboardInterrupt


def test_a_best_of_other_images_is_forgotten_at_once(half):
    """Though the epoch that follows was never reached."""
    with pytest.raises(KeyboardInterrupt):
        start(half, 3, validation_data=OTHER, on_accept=stop)
    run = start(half, 3, validation_data=OTHER, knn_epochs=2)
    assert len(run.history) == 3
    assert best(half)["checkpoint"] == "checkpoint-15"
    assert changed(half) == [(10, "epochs"), (10, "validation_data")]


def test_a_classifier_and_a_segmenter_name_what_judges_them(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        finetune_test.tuned(tmp_path / "tuned", on_accept=stop)
    judged = runs.record_of(tmp_path / "tuned")["judged"]
    assert judged["since"] == 0 and judged["validation_data"]["count"] == 40
    test = train_segmenter_test.images(seed=1)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter_test.trained(
            tmp_path / "segmenter", validation_data=test, on_accept=stop
        )
    judged = runs.record_of(tmp_path / "segmenter")["judged"]
    assert judged["validation_data"]["name"] and "knn_k" not in judged


def older(run, **without):
    """The run as another version left it: `judged` lacks this."""
    record = files.read_json(run / "run.json")
    for name, value in without.items():
        assert record["judged"].pop(name) == value
    files.write_json(run / "run.json", record)
    assert list(runs.record_of(run)["judged"]) == ["validation_data", "since"]


@pytest.mark.slow
def test_epochs_of_a_segmenter_by_cut_images_are_not_those_by_whole_ones(
    tmp_path, caplog
):
    out = tmp_path / "segmenter"

    def trained(epochs):
        return train_segmenter_test.trained(
            out,
            validation_data=train_segmenter_test.images(seed=1),
            epochs=epochs,
            allow_changes=("epochs",),
        )

    trained(1)
    older(out, whole_images=True)
    trained(2)
    assert changed(out) == [(3, "epochs"), (3, "whole_images")]
    assert best(out)["checkpoint"] == "checkpoint-6"
    assert "after step 3: whole_images is False there and True here" in caplog.text
    trained(3)
    assert len(changed(out)) == 3


def test_a_classifier_is_judged_otherwise_by_another_crop(tmp_path):
    out = tmp_path / "tuned"

    def tuned(epochs, crop):
        changes = {"crop": crop, "allow_changes": ("epochs", "crop")}
        return finetune_test.tuned(out, epochs=epochs, **changes)

    tuned(1, 0.5)
    older(out, judged_crop=0.5)
    tuned(2, 0.5)  # An older record lacks it, and it was the same.
    assert changed(out) == [(5, "epochs")]
    tuned(3, 0.75)
    assert {(10, "crop"), (10, "judged_crop")} < set(changed(out))
    assert best(out)["checkpoint"] == "checkpoint-15"
    (note,) = epoch_judges.earlier(runs.record_of(out))
    assert note == "Up to step 10 epochs were judged by judged_crop=0.5."


def test_an_epoch_that_was_not_judged_yet_is_judged_by_the_new_images(half):
    """Its checkpoint was written, and the process ended before its numbers were."""
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text(lines[0])
    start(half, 3, validation_data=OTHER)
    assert [(5, "validation_data")] == changed(half)[1:]
    lines = (half / "metrics.jsonl").read_text().splitlines()
    later = [json.loads(line)["knn_accuracy"] for line in lines[1:]]
    assert best(half)["knn"] == max(later) and len(later) == 2


def test_what_is_not_known_is_no_difference():
    source = data.open_source(FIRST)
    now = epoch_judges.judging(source, knn_k=3)
    assert not epoch_judges.differences(None, now)
    assert not epoch_judges.differences(now, None)
    older = {key: value for key, value in now.items() if key != "knn_k"}
    assert not epoch_judges.differences(older, now)
    moved = now["validation_data"] | {"name": "elsewhere"}
    assert not epoch_judges.differences(now, now | {"validation_data": moved})


def test_other_labels_and_another_k_are_differences():
    before = epoch_judges.judging(data.open_source(FIRST), knn_k=3)
    for given, k, setting in (
        (OTHER_LABELS, 3, "validation_data"),
        (FIRST, 4, "knn_k"),
    ):
        now = epoch_judges.judging(data.open_source(given), knn_k=k)
        (found,) = epoch_judges.differences(before, now)
        assert found.setting == setting


def test_epochs_that_a_damaged_checkpoint_takes_back_are_counted_again():
    before = {"since": 20}
    assert epoch_judges.after([], before, last=10) == 10
    assert epoch_judges.after([], before, last=40) == 20
    assert epoch_judges.after([], None, last=40) == 0

"""Runs on views in tiles."""

import json
import os

import numpy as np
import pytest

from tests.tasks.pretrain_test import (
    TINY,
    assert_same_runs,
    images,
    straight_and_interrupted,
)
from tfssl.data.views import pretext_recipes
from tfssl.evaluation import supervised
from tfssl.tasks import finetune, pretrain, resolve

JIGSAW = dict(
    method="pretext",
    recipe="jigsaw_digits",
    image_size=18,
    hparams=dict(task="jigsaw", num_permutations=6, tile_dim=8),
)


PIRL = dict(
    method="pirl",
    recipe="pirl_jigsaw_digits",
    image_size=16,
    hparams=dict(negatives=12, projection_dim=8),
)


def run(out, **changes):
    return pretrain.pretrain(images(), str(out), **TINY | JIGSAW | changes)


@pytest.mark.parametrize(
    "case, place",
    [
        pytest.param(JIGSAW, "host", marks=pytest.mark.slow),
        (JIGSAW, "device"),
        (PIRL, "host"),
    ],
)
def test_resume_equals_the_straight_run(case, place, tmp_path):
    """The same orders and turns, and PIRL's same negatives."""
    assert_same_runs(*straight_and_interrupted(tmp_path, augment_on=place, **case))


def test_a_jigsaw_is_trained_recorded_and_judged(tmp_path, capsys):
    made = run(
        tmp_path,
        epochs=2,
        validation_data=images(seed=1),
        knn_epochs=1,
        online_probe_epochs=1,
        verbose=1,
    )
    printed = capsys.readouterr().out
    assert "1 views of 4 x 7 px (jigsaw_digits)" in printed
    assert "6 orders of 4 tiles, two of which differ in" in printed
    assert "chance-level loss 1.7918" in printed  # ln(6).
    line = made.history[-1]
    assert line["chance_accuracy"] == pytest.approx(1 / 6)
    for key in ("task_accuracy", "knn_accuracy", "probe_accuracy"):
        assert 0 <= line[key] <= 1, key
    record = json.loads(open(os.path.join(made.path, "run.json")).read())
    (view,) = record["made"]["views"]
    assert (view["size"], view["grid"], view["whole"]) == (7, 2, 18)
    # The images of an evaluation are what the tiles are cut from.
    assert made.encoder.preprocessing.size == 18
    assert made.method.num_tiles == 4
    other = [pretext_recipes.JIGSAW_DIGITS[0].scaled(grid=3, whole=36, size=10)]
    with pytest.raises(ValueError, match="view 0.grid is 2 there and 3 here"):
        run(tmp_path, epochs=2, recipe=other)


def test_a_recipe_in_tiles_is_for_methods_that_take_them(tmp_path):
    with pytest.raises(
        ValueError, match="'jigsaw_digits' does not fit: view 0 is in t"
    ):
        run(tmp_path, hparams={"task": "rotation"})
    with pytest.raises(
        ValueError, match="view 0 is one picture, but Pretext takes it in"
    ):
        run(tmp_path, recipe="rotation_digits")
    with pytest.raises(
        ValueError, match="25 received for 4 tiles, of which there are 24"
    ):
        run(tmp_path, hparams=JIGSAW["hparams"] | {"num_permutations": 25})
    fitting = resolve.recipe(None, "pretext", {"task": "jigsaw"}, 51)
    assert (fitting.name, fitting[0].whole) == ("jigsaw", 51)
    assert resolve.recipe(None, "pretext").name == "rotation"


def test_training_with_labels_takes_the_whole_crop(tmp_path):
    """A view of one picture where a recipe in tiles is named."""
    plain = supervised.geometry(pretext_recipes.JIGSAW[0])
    assert (plain.size, plain.gray) == (255, 0.0) and plain.area == (0.6, 1.0)
    made = run(tmp_path / "run", epochs=1)
    tuned = finetune.finetune(
        str(tmp_path / "run"),
        images(),
        tmp_path / "tuned",
        recipe="jigsaw_digits",
        epochs=1,
        batch_size=8,
        verbose=0,
    )
    assert np.isfinite(tuned.history[-1]["loss"])
    assert made.encoder.preprocessing.size == tuned.encoder.preprocessing.size

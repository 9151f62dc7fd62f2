import copy
import inspect
import json

import keras
import numpy as np

from tests.tasks import pretrain_test as small
from tfssl import data
from tfssl.data.views import recipes
from tfssl.tasks import (
    arguments,
    distill,
    finetune,
    pretrain,
    runs,
    settings,
    teachers,
    train_segmenter,
    train_tokenizer,
    trainer,
)

_TASKS = (
    pretrain.pretrain,
    finetune.finetune,
    distill.distill,
    train_segmenter.train_segmenter,
    train_tokenizer.train_tokenizer,
)
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(pretrain.pretrain).parameters.items()
}


def record(taught=None, **changes):
    """`(arguments, made)` of a start, and what run.json keeps of it."""
    arguments = _DEFAULTS | {"data": small.images()} | changes
    source = data.open_source(arguments["data"])
    recipe = arguments["recipe"] or recipes.SIMCLR_DIGITS
    plan = trainer.Plan(source, recipe, epochs=1, batch_size=4, teacher=taught)
    made = settings.made(arguments, plan)
    kept = {"settings": settings.recorded(arguments), "made": made}
    return arguments, made, json.loads(json.dumps(kept))


def found(before, now):
    kept = record(**before)[2]
    arguments, made, _ = record(**now)
    return [
        (one.name, one.before, one.now)
        for one in settings.differences(kept, arguments, made)
    ]


def test_every_argument_is_in_one_group():
    """A new argument is to be put into one of them, with thought."""
    grouped = [*settings.RESULT, *settings.IMAGES, *settings.FREE]
    known = {a.name for task in _TASKS for a in arguments.of(task)}
    assert sorted(grouped) == sorted(known)
    assert all(settings.FREE.values())


def test_what_is_the_same_in_other_words_is_no_difference():
    assert not found({}, {})
    words = {"hparams": {}, "lr_drops": (), "encoder_args": {}, "warmup_epochs": 10}
    assert not found({}, words)
    assert not found({"lr_drops": (1, 2)}, {"lr_drops": [1.0, 2.0]})
    # Objects have names that count up, and are judged by what they make.
    assert not found({"encoder": lambda shape: 1}, {"encoder": small.tiny_encoder})
    first, second = keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1)
    assert not found({"optimizer": first}, {"optimizer": second})
    first, second = map(keras.optimizers.LossScaleOptimizer, (first, second))
    assert not found({"optimizer": first}, {"optimizer": second})
    named = recipes.SIMCLR_DIGITS
    assert not found({"recipe": named}, {"recipe": recipes.Recipe(named, "mine")})
    assert not found({}, {name: "other" for name in settings.FREE})


def test_differences_name_setting_and_both_values():
    before = {"hparams": {"temperature": 0.5, "projection_dim": 8}}
    now = {"hparams": {"temperature": 7, "projection_dim": 8}, "seed": 5}
    assert found(before, now) == [("hparams.temperature", 0.5, 7), ("seed", 0, 5)]
    first, second = keras.optimizers.Adam(0.5), keras.optimizers.Adam(0.25)
    assert found({"optimizer": first}, {"optimizer": second}) == [
        ("optimizer.learning_rate", 0.5, 0.25)
    ]
    first, second = map(keras.optimizers.LossScaleOptimizer, (first, second))
    assert found({"optimizer": first}, {"optimizer": second}) == [
        ("optimizer.inner_optimizer.config.learning_rate", 0.5, 0.25)
    ]
    mine = recipes.Recipe(
        [recipes.SIMCLR_DIGITS[0], recipes.SIMCLR_DIGITS[1].scaled(rotation=0.5)]
    )
    assert found({}, {"recipe": mine}) == [("view 1.rotation", 0.3, 0.5)]
    (images,) = found({}, {"data": small.images(seed=1)})
    assert images[0] == "data" and images[1] != images[2]
    assert "array, 40 images of 1 channel(s), uint8" in images[1]


def test_workers_do_the_same_and_watch_alike():
    def differ(chiefs, mine):
        kept = record(**chiefs)[2]
        arguments, made, _ = record(**mine)
        found = settings.between_workers(kept, arguments, made)
        return [(one.name, one.before, one.now) for one in found]

    assert not differ({}, {})
    assert differ({"knn_epochs": 1, "seed": 3}, {"seed": 4}) == [
        ("seed", 3, 4),
        ("knn_epochs", 1, 0),
    ]
    assert differ({}, {"steps_per_execution": 5}) == [("steps_per_execution", 1, 5)]
    assert differ({}, {"data": small.images(seed=1)})[0][0] == "data"
    # Places are each worker's own, but whether there are images to watch is not.
    assert differ({"validation_data": "a"}, {}) == [("validation_data", "a", None)]
    own = {"out": "/elsewhere", "validation_data": "/there", "verbose": 0}
    own["callbacks"] = [keras.callbacks.Callback()]
    assert not differ({"validation_data": "/here"}, own)
    assert set(settings._OF_EACH_WORKER) <= settings.FREE.keys()


def test_a_teacher_is_compared_by_what_it_is_wherever_it_lies():
    grey = data.Preprocessing(size=8, channels=1)
    keras.utils.set_random_seed(0)
    one, other = (
        teachers.Teacher(small.tiny_encoder((8, 8, 1)), grey, grey) for _ in range(2)
    )
    assert not found({"taught": one, "teacher": "a"}, {"taught": one, "teacher": "b"})
    ((name, before, now),) = found({"taught": one}, {"taught": other})
    assert name == "teacher" and one.fingerprint in before and other.fingerprint in now
    assert found({}, {"taught": one}) == [("teacher", "none", before)]
    arguments, made, kept = record(taught=one)
    del kept["made"]["teacher"]  # Of a version that knew no teachers.
    assert len(settings.differences(kept, arguments, made)) == 1


def test_what_an_older_version_did_not_record_is_passed_over():
    arguments, made, kept = record()
    older = copy.deepcopy(kept)
    del older["made"], older["settings"]["lr_final"]
    older["settings"]["data"] = ["ndarray", "ndarray"]
    arguments |= {"lr_final": 0.5}
    assert not settings.differences(older, arguments, made)
    older["settings"] |= {"split": "train", "bit_depth": None, "seed": 3}
    names = [str(d) for d in settings.differences(older, arguments, made)]
    assert names == [
        "split is 'train' there and None here",
        "bit_depth is None there and 8 here",
        "seed is 3 there and 0 here",
    ]
    # A newer version may know more of a view.
    kept["made"]["views"][0].pop("antialias")
    assert not settings.differences(kept, *record()[:2])


def test_images_in_memory_are_recorded_as_such():
    arguments = _DEFAULTS | {
        "data": (np.zeros((2, 4, 4, 3)), [0, 1]),
        "validation_data": data.open_source(np.zeros((2, 4, 4, 3), np.uint8)),
    }
    kept = settings.recorded(arguments)
    assert settings.in_memory(kept["data"]) == "ndarray, list"
    assert settings.in_memory(kept["validation_data"]) == "ArraySource"
    assert settings.in_memory("photos") is settings.in_memory(None) is None
    assert settings.in_memory(["ndarray", "ndarray"]) == "ndarray, ndarray"


def test_a_record_of_before_norm_statistics_is_read(tmp_path):
    kept = record(hparams={"norm_statistics": "local"})[2]
    kept["settings"]["hparams"] = {"batch_norm": "local"}
    kept["settings"]["encoder_args"] = {"norm": "batch_global", "width": 0.25}
    (tmp_path / "run.json").write_text(json.dumps(kept))
    found = runs.record_of(tmp_path)["settings"]
    assert found["hparams"] == {"norm_statistics": "local"}
    assert found["encoder_args"] == {"norm_statistics": "global", "width": 0.25}

"""The arguments of a training: how they are recorded, and which may change.

An interrupted run goes on to the result of one that was never stopped only if what
makes the result is as it was. Every argument of a task that trains stands in one of the
three groups below.
"""

import dataclasses
import os

import keras
import numpy as np

from tfssl.tasks import teachers

# They make the result: compared by value.
RESULT = (
    "method",
    "hparams",
    "encoder",
    "encoder_args",
    "teacher",
    "recipe",
    "image_size",
    "crop",
    "augment",
    "epochs",
    "batch_size",
    "optimizer",
    "optimizer_args",
    "learning_rate",
    "lr_scaling",
    "lr_schedule",
    "lr_start",
    "lr_final",
    "lr_drops",
    "lr_drop_factor",
    "weight_decay",
    "weight_decay_final",
    "warmup_epochs",
    "precision",
    "seed",
    "init_from",
    # Of fine-tuning and distillation.
    "task",
    "student",
    "label_weight",
    "temperature",
    "hard_labels",
    "head_layer",
    "preprocessing",
    "freeze",
    "layer_decay",
    "label_smoothing",
    "class_weights",
    "balance_classes",
    "rand_augment",
    "rand_augment_magnitude",
    "erase",
    "repeats",
    "mixup",
    "cutmix",
    "averaging",
    "budget",
    "budget_seed",
    "label_list",
    # Of a tokenizer.
    "vocabulary",
    "downsampling",
    "width",
    "blocks",
    "decoder_width",
    "likelihood",
    "temperature_epochs",
    "kl_weight",
    "kl_epochs",
    # Of a segmenter.
    "map_start",
    "class_names",
)
# They say which images train: compared by these images, wherever they lie.
IMAGES = (
    "data",
    "split",
    "channels",
    "bit_depth",
    "data_dir",
    "data_args",
    "validation_fraction",
)
# They may differ from start to start, for the reason given.
FREE = {
    "out": "a folder may be moved",
    "labels": "never pre-train, and fine-tuning compares its own; a hold-out that they "
    "change is seen in the images",
    "validation_data": "watches; a hold-out that it ends is seen in the images",
    "validation_split": "watches",
    "strategy": "the global batch stays",
    "num_replicas": "the global batch stays",
    "tpu": "the global batch stays",
    "data_service": "makes the same views",
    "augment_on": "the same views, but for rounding",
    "images_on": "the same views, but for rounding",
    "cache_gib": "the same images",
    "jit_compile": "the same step",
    "remat": "the same step",
    "steps_per_execution": "the same steps",
    "max_bank_gib": "when to refuse",
    "resume": "about this start",
    "allow_changes": "about this start",
    "on_accept": "about this start",
    "checkpoint_epochs": "when to save",
    "checkpoint_steps": "when to save",
    "checkpoint_minutes": "when to save",
    "keep": "what to keep",
    "knn_epochs": "watches",
    "knn_k": "watches",
    "knn_temperature": "watches",
    "online_probe_epochs": "watches, without influence on the encoder",
    "online_probe_data": "watches, without influence on the encoder",
    "online_probe_split": "watches, without influence on the encoder",
    "online_probe_steps": "watches, without influence on the encoder",
    "watch_gradients": "watches",
    "validation_epochs": "watches",
    "baseline": "another training, in a folder of its own",
    "max_bad_fraction": "when to stop",
    "stop_on_collapse": "when to stop",
    "callbacks": "of the user's own",
    "verbose": "what to print",
}
_DATA = ("data", "validation_data", "online_probe_data")
# Of those above, what each worker of a training may have its own way: places, its own
# means, and what the chief alone looks at.
_OF_EACH_WORKER = (
    "out",
    "labels",
    "validation_data",
    "validation_split",
    "online_probe_data",
    "online_probe_split",
    "tpu",
    "data_service",
    "cache_gib",
    "max_bank_gib",
    "verbose",
)
# What of `made` is compared in ways of its own, or not at all.
_MADE = ("images", "views", "optimizer", "teacher", "steps_per_epoch")
_NOT_RECORDED = ("on_accept", "allow_changes", "callbacks")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A setting that is not as it was recorded.

    Attributes:
        setting: the argument of the task.
        name: what of it, for a message (`hparams.temperature`).
        before: the recorded value.
        now: the value received.
    """

    setting: str
    name: str
    before: object
    now: object

    def __str__(self):
        return f"{self.name} is {self.before!r} there and {self.now!r} here"


def recorded(arguments):
    """The arguments in the form in which run.json keeps them: JSON-able."""
    return {
        name: _data(value) if name in _DATA else _plain(value)
        for name, value in arguments.items()
        if name not in _NOT_RECORDED
    }


def made(arguments, plan):
    """What the arguments led to, where their names alone do not tell.

    Args:
        arguments: of the task.
        plan: `trainer.Plan`.

    Returns:
        JSON-able dict.
    """
    optimizer, source = arguments["optimizer"], plan.train
    if isinstance(optimizer, keras.Optimizer):
        optimizer = _plain(optimizer.get_config())
    else:
        optimizer = None
    return {
        "images": {
            "name": source.name,
            "count": source.num_images,
            "channels": source.channels,
            "dtype": source.dtype,
            "identity": source.identity(),
        },
        "views": [_plain(dataclasses.asdict(view)) for view in plan.recipe],
        "optimizer": optimizer,
        "teacher": plan.teacher and plan.teacher.record(),
        "steps_per_epoch": plan.steps_per_epoch,
        **plan.compared,
    }


def differences(record, arguments, now):
    """What makes another result than the recorded start; what it lacks is passed over.

    Args:
        record: run.json, a dict.
        arguments: of the task.
        now: of `made`.

    Returns:
        List of `Difference`.
    """
    before, settings = record.get("settings", {}), recorded(arguments)
    there = record.get("made")
    found = _of_images(there, before, now, settings)
    compared = [name for name in there or () if name in now and name not in _MADE]
    for name in compared:
        found += _unlike(name, name, there[name], now[name])
    for name in RESULT:
        if name in compared:
            continue
        if there and name in ("recipe", "image_size", "teacher"):
            continue
        # Objects are judged by what they make: views, optimizer, variables.
        if name in before and name in arguments and _by_name(arguments[name]):
            found += _unlike(name, name, before[name], settings[name])
    if there:
        found += _of_views(there["views"], now["views"])
        found += _of_teachers(there.get("teacher"), now["teacher"])
        if there["optimizer"] and now["optimizer"]:
            old, new = (_without_names(one["optimizer"]) for one in (there, now))
            found += _unlike("optimizer", "optimizer", old, new)
    return found


def between_workers(chiefs, arguments, now):
    """What a worker of a training was told otherwise than the chief.

    Args:
        chiefs: dict with the chief's `recorded` arguments (`settings`) and what `made`
            gave there (`made`).
        arguments: of the task, here.
        now: of `made`, here.

    Returns:
        List of `Difference`.
    """
    found, mine = differences(chiefs, arguments, now), recorded(arguments)
    for name in filter(mine.__contains__, FREE):
        there = chiefs["settings"].get(name)
        alike = name not in _OF_EACH_WORKER and _by_name(arguments[name])
        one_lacks = name in _DATA and (there is None) != (mine[name] is None)
        if alike or one_lacks:
            found += _unlike(name, name, there, mine[name])
    return found


def _without_names(config):
    """Of an optimizer, and of what is in it: Keras numbers names in every process."""
    if not isinstance(config, dict):
        return config
    return {k: _without_names(v) for k, v in config.items() if k != "name"}


def _of_views(before, now):
    if len(before) != len(now):
        return [Difference("recipe", "the number of views", len(before), len(now))]
    found = []
    for number, (old, new) in enumerate(zip(before, now)):
        # A later version may know more of a view.
        known = {key: new.get(key) for key in old}
        found += _unlike("recipe", f"view {number}", old, known)
    return found


def _of_teachers(before, now):
    """By what they are, wherever they lie."""
    prints = [teacher and teacher["fingerprint"] for teacher in (before, now)]
    if prints[0] == prints[1]:
        return []
    told = map(teachers.told, (before, now))
    return [Difference("teacher", "teacher", *told)]


def _of_images(there, before, now, settings):
    if there:
        old, new = there["images"], now["images"]
        same = all(old[k] == new[k] for k in ("channels", "dtype", "identity"))
        return [] if same else [Difference("data", "data", _told(old), _told(new))]
    found = []
    for name in IMAGES:
        # Of images in memory an older version noted nothing to compare.
        if name in before and not in_memory(before[name]):
            found += _unlike("data", name, before[name], settings[name])
    return found


def _told(images):
    return "{name}, {count:,} images of {channels} channel(s), {dtype}, {short}".format(
        short=images["identity"][:8], **images
    )


def _unlike(setting, name, before, now):
    """The differences of two recorded values; of dicts, key by key."""
    before, now = (None if value in ({}, []) else value for value in (before, now))
    if isinstance(before or now, dict) and isinstance(now or before, dict):
        before, now = before or {}, now or {}
        pairs = [
            _unlike(setting, f"{name}.{key}", before.get(key), now.get(key))
            for key in sorted({*before, *now})
        ]
        return [difference for some in pairs for difference in some]
    return [] if before == now else [Difference(setting, name, before, now)]


def in_memory(value):
    """What a recorded data setting says of images that no name can open, or None."""
    if isinstance(value, dict):
        return value["in_memory"]
    return ", ".join(map(str, value)) if isinstance(value, list) else None


def _data(value):
    """Data by its name; what is in memory is marked, so that nobody opens it."""
    if value is None or isinstance(value, str | os.PathLike):
        return _plain(value)
    parts = value if isinstance(value, tuple) else (value,)
    return {"in_memory": ", ".join(type(part).__name__ for part in parts)}


def _by_name(value):
    return value is None or isinstance(
        value, bool | int | float | str | os.PathLike | dict | list | tuple
    )


def _plain(value):
    """A JSON-able form of a value: plain ones as they are, objects named."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "name"):
        return [_plain(v) for v in value]
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return named if isinstance(named, str) else type(value).__name__

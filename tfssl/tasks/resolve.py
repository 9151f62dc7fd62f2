"""What settings mean: sources, recipe, encoder, method, optimizer, checkpoint.

Every choice can be given as the thing itself or by its name, as flags do.
"""

import inspect
import os

import keras
import tensorflow as tf

from tfssl import data as data_lib
from tfssl import methods, models, optimizers
from tfssl.data import recipes
from tfssl.export import keras_file
from tfssl.optimizers import schedules
from tfssl.training import checkpoint


def sources(
    *,
    data,
    split=None,
    labels="auto",
    channels=None,
    bit_depth=8,
    data_dir=None,
    data_args=None,
    validation_data=None,
    validation_split=None,
    validation_fraction=0.0,
    seed=0,
    **_,
):
    """The training source and the validation source (or None) of these settings."""
    options = dict(
        channels=channels,
        labels=labels,
        bit_depth=bit_depth,
        data_dir=data_dir,
    )
    train = source(data, data_args=data_args, split=split, **options)
    if validation_data is None and validation_split is not None:
        validation_data = data
    if validation_data is not None:
        return train, source(
            validation_data,
            data_args=data_args,
            beside=True,
            split=validation_split,
            **options,
        )
    if validation_fraction:
        return data_lib.holdout(train, fraction=validation_fraction, seed=seed)
    return train, None


def source(data, *, data_args=None, beside=False, **options):
    """`data.open_source` with its further arguments, checked.

    Args:
        data: see `data.open_source`.
        data_args: dict of further arguments, or None.
        beside: whether these are other images than those that `data_args` were meant
            for (validation images); they take only what their kind of data has.
        **options: of `data.open_source`.
    """
    given, known = data_args or {}, data_lib.sources.OPTIONS
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"data_arg {unknown[0]!r} received, expected some of {', '.join(known)}."
        )
    if beside:
        kind = data_lib.sources.kind_of(data)
        given = {name: value for name, value in given.items() if known[name] == kind}
    return data_lib.open_source(data, **options, **given)


def recipe(given, method_name, hparams=None, image_size=None):
    """A recipe from its name, the method's default, or as given; scaled."""
    method_class = methods.METHODS[method_name]
    if given is None:
        given = method_class.recipe_for(**(hparams or {}))
    if isinstance(given, str):
        given = recipes.get(given)
    try:
        method_class.check_views(len(given))
    except ValueError as error:
        name = getattr(given, "name", "custom")
        raise ValueError(f"The recipe {name!r} does not fit: {error}") from error
    return given.scaled(image_size) if image_size else given


def encoder(given, input_shape, encoder_args=None):
    """An encoder from its name, a `.keras` file, or as given."""
    if isinstance(given, keras.Model):
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                f"The encoder {given.name!r} was built outside of the strategy; "
                "pass a function that builds it, input_shape -> model."
            )
        return given
    if not isinstance(given, str):
        return given(input_shape)
    prefix = "keras.applications."
    if given.startswith(prefix):
        builder = getattr(keras.applications, given.removeprefix(prefix), None)
        if builder is None:
            raise ValueError(
                f"encoder={given!r} is not in keras.applications; expected for "
                "example 'keras.applications.MobileNetV3Small'."
            )
        options = {"weights": None, "pooling": "avg", "include_top": False}
        return builder(input_shape=input_shape, **options | (encoder_args or {}))
    if given.endswith(".keras"):
        return keras_file.load(given)[0]
    return models.encoder(given, input_shape=input_shape, **(encoder_args or {}))


def method(name, encoder, hparams=None, *, total_steps=None):
    """Builds a method, refusing arguments that it does not have.

    `total_steps` is handed on where the method has a schedule over the training
    and `hparams` do not set its length.
    """
    method_class = methods.METHODS[name]
    known = [
        p
        for p in inspect.signature(method_class.__init__).parameters
        if p not in ("self", "encoder", "name", "kwargs")
    ]
    unknown = sorted(set(hparams or {}) - set(known))
    if unknown:
        raise ValueError(
            f"hparam {unknown[0]!r} received, but {name} takes only: "
            f"{', '.join(known)}."
        )
    hparams = dict(hparams or {})
    if "total_steps" in known:
        hparams.setdefault("total_steps", total_steps)
    return method_class(encoder, **hparams)


def optimizer(given, steps_per_epoch, settings):
    """An optimizer from its name and the settings' schedule, or as given."""
    if not isinstance(given, str):
        return given
    schedule = schedules.WarmupCosine(
        scaled_rate(settings),
        warmup_steps=round(settings["warmup_epochs"] * steps_per_epoch),
        total_steps=settings["epochs"] * steps_per_epoch,
    )
    return optimizers.build(
        given,
        learning_rate=schedule,
        weight_decay=settings["weight_decay"],
        **(settings["optimizer_args"] or {}),
    )


def scaled_rate(settings):
    """The peak learning rate of these settings."""
    return schedules.scaled_rate(
        settings["learning_rate"], settings["batch_size"], settings["lr_scaling"]
    )


def checkpoint_path(path):
    """A checkpoint folder from itself, a run's folder or a checkpoints folder."""
    for folder in (path, os.path.join(path, "checkpoints")):
        newest = checkpoint.latest(folder)
        if newest:
            return newest
    checkpoint.read_state(path)  # Says what is wrong, if it is no checkpoint.
    return path

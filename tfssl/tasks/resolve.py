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

LR_SCHEDULES = ("cosine", "steps")


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
    """The training source and the validation source (or None) of these settings.

    Classes of the validation images have the numbers that the training images give
    them, see `data.class_names.matched`.
    """
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
        validation = source(
            validation_data,
            data_args=data_args,
            beside=True,
            split=validation_split,
            **options,
        )
        return train, data_lib.class_names.matched(validation, train)
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


def input_shape(recipe, source):
    """The shape of the images that the encoder is to take.

    Height and width are None for views of several sizes.
    """
    sizes = {view.size for view in recipe}
    side = sizes.pop() if len(sizes) == 1 else None
    return (side, side, source.channels)


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


def method(name, encoder, hparams=None, **known_here):
    """Builds a method, refusing arguments that it does not have.

    Args:
        name: key of `METHODS`.
        encoder: a built Keras model.
        hparams: dict, arguments of the method.
        **known_here: what the run knows (`total_steps`, `steps_per_epoch`,
            `num_images`, `seed`): handed on to methods that ask for it, unless
            `hparams` say otherwise.
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
    fitting = {key: value for key, value in known_here.items() if key in known}
    return method_class(encoder, **fitting | hparams)


def optimizer(given, steps_per_epoch, settings):
    """An optimizer from its name and the settings' schedule, or as given."""
    if not isinstance(given, str):
        return given
    return optimizers.build(
        given,
        learning_rate=schedule(steps_per_epoch, settings),
        weight_decay=settings["weight_decay"],
        **(settings["optimizer_args"] or {}),
    )


def schedule(steps_per_epoch, settings):
    """The learning rate over the training that these settings describe."""
    peak, kind = scaled_rate(settings), settings["lr_schedule"]
    if kind not in LR_SCHEDULES:
        raise ValueError(
            f"lr_schedule={kind!r} received, expected one of {', '.join(LR_SCHEDULES)}."
        )
    warmup = dict(
        warmup_steps=round(settings["warmup_epochs"] * steps_per_epoch),
        start=peak * settings["lr_start"],
    )
    if kind == "cosine":
        return schedules.WarmupCosine(
            peak,
            total_steps=settings["epochs"] * steps_per_epoch,
            final=peak * settings["lr_final"],
            **warmup,
        )
    return schedules.WarmupSteps(
        peak,
        boundaries=[round(e * steps_per_epoch) for e in settings["lr_drops"] or ()],
        factor=settings["lr_drop_factor"],
        **warmup,
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

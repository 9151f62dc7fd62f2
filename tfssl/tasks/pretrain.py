"""Pre-training from images to a saved encoder, in one call."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import keras
from absl import logging

from tfssl import files, methods, models
from tfssl.data import pipeline
from tfssl.data.views import recipes, tiles
from tfssl.methods import bank_contrast
from tfssl.models import copying
from tfssl.tasks import (
    accept,
    arguments,
    cuts,
    drawn,
    groups,
    monitoring,
    online_probe,
    resolve,
    teachers,
    trainer,
)
from tfssl.tasks.arguments import OneOf, Path


@arguments.task
def pretrain(
    data: Any = "digits",
    out: Path = "runs/pretrain",
    *,
    images: groups.TrainingImages,
    validation: groups.Validation,
    method: Annotated[str, OneOf(methods.METHODS)] = "simclr",
    hparams: dict | None = None,
    encoder: str | Callable = "resnet18",
    encoder_args: dict | None = None,
    teacher: str | os.PathLike | keras.Model | None = None,
    recipe: Annotated[str | Sequence[Any] | None, OneOf(recipes.RECIPES)] = None,
    image_size: groups.ImageSize = None,
    augment: bool = True,
    epochs: groups.Count = 100,
    batch_size: groups.Count = 256,
    optimization: groups.Optimization,
    devices: groups.Devices,
    max_bank_gib: groups.Positive = bank_contrast.MAX_GIB,
    seed: groups.Seed = 0,
    saves: groups.Saving,
    monitors: groups.Monitors,
    hooks: groups.Hooks,
):
    """Trains an encoder on unlabelled images.

    Args:
        data: where the images are: a folder, `digits`, `scenes`, `tfds:NAME`,
            `tfds-dir:PATH`, `manifest:PATH` (CSV or JSON lines), `tfrecord:PATH` (index
            or pattern). In Python also arrays, a `tf.data.Dataset`, a `Source`; see
            `data.open_source`.
        out: folder of the run. Training continues there if it was interrupted, with
            the settings that it was begun with (see `allow_changes`). One process at
            a time.
        images: see `groups.TrainingImages`.
        validation: see `groups.Validation`.
        method: self-supervised method, a key of `methods.METHODS`.
        hparams: arguments of the method (`{"temperature": 0.5}`).
        encoder: a key of `models.ENCODERS`, `keras.applications.NAME`, or the path of
            a `.keras` file. In Python also a function `input_shape -> Keras model`, or
            (under the default strategy) a built Keras model. An encoder that takes
            pixels up to 255 gets them from a layer in front. Of a file or a model in
            another `precision` than is asked for, a copy in that one is trained.
        encoder_args: arguments of the encoder's builder (`{"width": 0.25}`).
        teacher: what `feature_distillation` learns from, and the tokenizer of `beit`:
            the folder of a run or of an exported model, or a `.keras` file. In Python
            also a `formats.Encoder`: any Keras model with its preprocessing. It gets
            the student's views in its own size and normalisation, and must have their
            channels.
        recipe: the views, a name in `recipes.RECIPES` or a recipe; None takes the
            method's.
        image_size: pixels of the largest view; None keeps the recipe's.
        augment: random views; off to look for mistakes.
        epochs: passes over the data.
        batch_size: images per step, over all replicas together.
        optimization: see `groups.Optimization`.
        devices: see `groups.Devices`.
        max_bank_gib: memory that the banks of a method may take on every device, in
            GiB; one that would take more is refused at the start.
        seed: seed of weights, order and views.
        saves: see `groups.Saving`.
        monitors: see `groups.Monitors`.
        hooks: see `groups.Hooks`.

    Returns:
        A `runs.Run`.

    Raises:
        ValueError: for arguments that cannot work, before training starts and
            anything is written.
        TrainingStopped: on a non-finite loss or weight.
        Preempted: after SIGTERM (on any worker), or when the data service is lost,
            once the state is saved.
        Interrupted: after Ctrl-C, likewise; it is a `KeyboardInterrupt`.
        WorkerLost: if another worker is gone.
        SaveError: if the last checkpoint cannot be written.
    """
    out = files.expanded(out)
    given = arguments.flat(pretrain, locals())
    accept.check_names(saves.allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    strategy = devices.make_strategy()
    sources = validation.sources(
        data, images, seed, probe_data=monitors.online_probe_data
    )
    train, held_out = map(images.keep, sources)
    plan = trainer.Plan(
        train,
        resolve.recipe(recipe, method, hparams, image_size),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        bad_files=pipeline.BadFiles(max_fraction=monitors.max_bad_fraction),
    )
    known = dict(
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        num_images=train.num_images,
        num_tiles=tiles.most(plan.recipe),
        seed=seed,
        max_bank_gib=max_bank_gib,
    )
    resolve.check_memory(method, hparams, **known)
    taught = teachers.for_method(teacher, method, plan.preprocessing)
    cuts.check(teacher, "teacher", "pretrain", given)
    cuts.check(saves.init_from, "init_from", "pretrain", given)
    plan = dataclasses.replace(plan, teacher=taught)
    training = trainer.Trainer(
        plan,
        out,
        given,
        strategy=strategy,
        optimization=optimization,
        devices=devices,
        saves=saves,
        verbose=hooks.verbose,
    )
    probed = online_probe.images(data, train, held_out, images, monitors)
    probed = images.keep(probed)
    watch = monitoring.Watch(plan, monitors, held_out, probed, hooks.callbacks)

    def make_model():
        shape = resolve.input_shape(plan.recipe, train)
        network = resolve.encoder(encoder, shape, encoder_args, plan.preprocessing)
        several = shape[0] is None
        for view in plan.recipe:
            of_view = (view.size, view.size, train.channels)
            resolve.check_shape(network, of_view, several)
            models.check_images(network, view.size, view.size)
        made = resolve.method(
            method,
            network,
            hparams,
            teacher=taught and taught.layer(),
            **known,
        )
        if not isinstance(encoder, str):  # Last: it draws random numbers.
            _warn_unless_readable(network)
        return made

    run = training.train(make_model, watch)
    drawn.write(run, held_out, training)
    return run


def _warn_unless_readable(network):
    reason = copying.unreadable(network)
    if reason:
        logging.warning(
            "The encoder %s will not be read from its file (%s): nothing can evaluate, "
            "export or load what this run leaves. Register its classes with "
            "keras.saving.register_keras_serializable, give them get_config, and build "
            "it without Lambda layers.",
            network.name,
            reason,
        )

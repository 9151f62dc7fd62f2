"""What trainings of a classifier share: fine-tuning, and its baseline; distillation."""

import dataclasses
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

import keras

from tfssl import data as data_lib
from tfssl import files, optimizers
from tfssl.data import pipeline
from tfssl.data.views import recipes
from tfssl.evaluation import supervised
from tfssl.optimizers import schedules
from tfssl.tasks import groups, judging_epochs, labelled_images, runs, trainer
from tfssl.tasks.arguments import OneOf

_BATCH_SIZE = 64
_EPOCHS, _STEPS = 30, 500  # At least, unless epochs are given.
_RECORDS = 30  # Validations and checkpoints, unless it is said how often.


@dataclasses.dataclass(frozen=True)
class Optimization(groups.Optimization):
    """That of `groups.Optimization`, with the habits of supervised training."""

    optimizer: Annotated[
        str | keras.optimizers.Optimizer, OneOf(optimizers.OPTIMIZERS)
    ] = "adamw"
    learning_rate: groups.NotNegative = 1e-3
    lr_scaling: Literal[schedules.RULES] = "none"
    weight_decay: groups.NotNegative = 0.05
    warmup_epochs: groups.NotNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Saving(groups.Saving):
    """That of `groups.Saving`, for epochs that may be a few steps.

    Attributes:
        checkpoint_epochs: epochs between checkpoints; None for about 30 in all.
    """

    checkpoint_epochs: groups.CountOrNone = None


@dataclasses.dataclass(frozen=True)
class Course:
    """How classifiers are trained on some images, whatever they begin with.

    Attributes:
        task: name of the task, for the record.
        labelled: `labelled_images.LabelledImages`.
        recipe: the view, a `Recipe`.
        preprocessing: `data.Preprocessing` that the view is for.
        epochs: int or None, see `tasks.finetune`.
        batch_size: the same.
        in_pairs: whether the images of a replica are mixed in pairs.
        seed: int.
        augment: bool.
        strategy: `tf.distribute.Strategy`.
        optimization: `groups.Optimization`.
        devices: `groups.Devices`.
        saves: `Saving`.
        monitors: `judging_epochs.Validating`.
        callbacks: Keras callbacks of the user's.
        verbose: 0, 1 or 2.
    """

    task: str
    labelled: labelled_images.LabelledImages
    recipe: recipes.Recipe
    preprocessing: data_lib.Preprocessing
    epochs: int | None
    batch_size: int | None
    in_pairs: bool
    seed: int
    augment: bool
    strategy: Any
    optimization: groups.Optimization
    devices: groups.Devices
    saves: Saving
    monitors: judging_epochs.Validating
    callbacks: Any = ()
    verbose: int = 1

    def plan(self, compared, teacher=None):
        """The `trainer.Plan`.

        Args:
            compared: dict, what a start in the folder is compared by beside the images.
            teacher: `teachers.Teacher`, or None.
        """
        images = self.labelled.train
        batch_size, epochs = self.batch_size, self.epochs
        if batch_size is None:
            alike = self.strategy.num_replicas_in_sync * (2 if self.in_pairs else 1)
            batch_size = min(_BATCH_SIZE, images.num_images)
            batch_size = max(batch_size // alike, 1) * alike
        if epochs is None:
            steps = pipeline.steps_per_epoch(images, batch_size)
            epochs = max(_EPOCHS, -(-_STEPS // steps))
        return trainer.Plan(
            images,
            self.recipe,
            epochs=epochs,
            batch_size=batch_size,
            seed=self.seed,
            augment=self.augment,
            bad_files=pipeline.BadFiles(max_fraction=self.monitors.max_bad_fraction),
            task=self.task,
            own_preprocessing=self.preprocessing,
            compared=compared | {"budget": self.labelled.told_in_record()},
            teacher=teacher,
        )

    def train(self, out, given, make_model: Callable, compared, teacher=None):
        """Trains a classifier in a folder.

        Args:
            out: the folder.
            given: dict, the arguments of the task, for the record.
            make_model: function without arguments -> `Classification`.
            compared: as for `plan`.
            teacher: the same.

        Returns:
            `(runs.Run, trainer.Trainer)`.
        """
        _check_start(given["init_from"], self.labelled.class_names)
        plan = self.plan(compared, teacher)
        every = max(1, plan.epochs // _RECORDS)
        saves, monitors = self.saves, self.monitors
        training = trainer.Trainer(
            plan,
            out,
            given,
            strategy=self.strategy,
            optimization=self.optimization,
            devices=self.devices,
            saves=dataclasses.replace(
                saves,
                init_from=given["init_from"],
                checkpoint_epochs=saves.checkpoint_epochs or every,
            ),
            verbose=self.verbose,
        )
        if monitors.validation_epochs and self.labelled.validation is None:
            raise ValueError(
                f"validation_epochs={monitors.validation_epochs} received, but there "
                "are no validation images; give validation_data or "
                "validation_fraction, or leave it out."
            )
        watch = judging_epochs.Watch(
            plan,
            self.labelled,
            every=monitors.validation_epochs or every,
            max_bad_fraction=monitors.max_bad_fraction,
            callbacks=self.callbacks,
        )
        return training.train(make_model, watch), training


def view(given, preprocessing, rand_augment=0, magnitude=9.0):
    """The view of a training, with the size and the normalisation of the encoder.

    Args:
        given: name in `RECIPES`, a recipe of one view, or None for a random crop and,
            of colour images, a mirror image.
        preprocessing: `data.Preprocessing` of the encoder.
        rand_augment: int, operations of RandAugment; 0 keeps the recipe's.
        magnitude: float, their strength.

    Raises:
        ValueError: for a recipe of several views.
    """
    if given is None:
        given = recipes.Recipe(supervised.crop_and_flip(preprocessing), "crop_and_flip")
    given = recipes.get(given)
    if len(given) != 1:
        raise ValueError(
            f"The recipe {getattr(given, 'name', 'custom')!r} has {len(given)} views, "
            "but this training takes one; choose a recipe of one view, for example "
            "recipe[:1] in Python."
        )
    changes = {"mean": preprocessing.mean, "std": preprocessing.std}
    if rand_augment:
        changes |= {
            "rand_augment": rand_augment,
            "rand_augment_magnitude": magnitude,
        }
    return given.scaled(preprocessing.size, **changes)


def opened(images, channels):
    """How the images of an encoder are opened, a `groups.Images`.

    Args:
        images: `groups.Images` as given.
        channels: int, what the encoder takes.

    Raises:
        ValueError: if other channels are asked for.
    """
    if images.channels not in (None, channels):
        raise ValueError(
            f"channels={images.channels} received, but the encoder takes images of "
            f"{channels} channel(s); leave channels out."
        )
    return dataclasses.replace(images, channels=channels)


def _check_start(init_from, class_names):
    """Raises `ValueError` if that training tells other classes apart."""
    if init_from is None:
        return
    folder = files.expanded(init_from)
    for _ in range(3):  # The run, its checkpoints, one of these.
        made = (runs.record_of(folder) or {}).get("made") or {}
        theirs = (made.get("budget") or {}).get("classes")
        if theirs is not None:
            break
        folder = os.path.dirname(folder)
    else:
        return
    if tuple(theirs) != tuple(class_names):
        odd = next((name for name in class_names if name not in theirs), theirs[-1])
        raise ValueError(
            f"--init_from={init_from} tells {len(theirs)} classes apart and these "
            f"images have {len(class_names)} ({odd!r} is not in both, or they are in "
            "another order); begin with its encoder instead (--encoder), which gets a "
            "new classifier."
        )

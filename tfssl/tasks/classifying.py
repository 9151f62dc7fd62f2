"""What trainings of a classifier share: fine-tuning, and its baseline; distillation."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import keras

from tfssl import data as data_lib
from tfssl import files, optimizers
from tfssl.data import pipeline
from tfssl.data.views import recipes
from tfssl.evaluation import supervised
from tfssl.optimizers import schedules
from tfssl.tasks import (
    groups,
    judging_epochs,
    labelled_images,
    resolve,
    runs,
    trainer,
)
from tfssl.tasks.arguments import Above, OneOf, Range

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
class Learning:
    """How a classifier learns from its images.

    Attributes:
        recipe: the view, a name in `recipes.RECIPES` or a recipe of one view; None
            takes a random crop and, of colour images, a mirror image. Its normalisation
            is the encoder's.
        image_size: pixels of the view; None takes the encoder's.
        crop: side of the central square of an image that is judged and served, as a
            share of the shorter side; None takes the encoder's.
        augment: random views; off to look for mistakes.
        rand_augment: how many of RandAugment's operations a view goes through, 2 usual;
            0 is none, or the recipe's.
        rand_augment_magnitude: their strength, of 10.
        erase: probability that a rectangle of the view becomes noise, 0.25 usual; 0 is
            none, or the recipe's.
        repeats: views of each image in a batch; an epoch then has so many times fewer
            images. 3 in DeiT's training from scratch.
        mixup: alpha of mixup, mixes of two images and of their labels (a teacher sees
            the mix); 0 is none, 0.2 to 0.8 usual.
        cutmix: alpha of cutmix, a part of one image pasted into another; 0 is none, 1
            usual. With both a coin decides.
        label_smoothing: share of a label that is spread over all classes.
        averaging: momentum of a moving average of the weights, which is then what is
            validated and saved; 0 is none, 0.999 usual.
        epochs: passes over the images; None takes 30, or as many as make 500 steps.
        batch_size: images per step, over all replicas together; None takes 64, or all
            images where there are fewer.
    """

    recipe: Annotated[str | Sequence[Any] | None, OneOf(recipes.RECIPES)] = None
    image_size: groups.ImageSize = None
    crop: Annotated[float | None, Above(0, 1)] = None
    augment: bool = True
    rand_augment: groups.CountOrZero = 0
    rand_augment_magnitude: Annotated[float, Range(0, 30)] = 9.0
    erase: groups.Share = 0.0
    repeats: groups.Count = 1
    mixup: groups.NotNegative = 0.0
    cutmix: groups.NotNegative = 0.0
    label_smoothing: Annotated[float, Range(0, 0.99)] = 0.0
    averaging: Annotated[float, Range(0, 0.99999)] = 0.0
    epochs: groups.CountOrNone = None
    batch_size: groups.CountOrNone = None

    @property
    def of_method(self):
        """What of it the method is told, a dict."""
        names = ("mixup", "cutmix", "label_smoothing", "averaging")
        return {name: getattr(self, name) for name in names}

    def view(self, preprocessing):
        """The recipe of one view, with the size and the normalisation of the encoder.

        Args:
            preprocessing: `data.Preprocessing` of the encoder.

        Raises:
            ValueError: for a recipe of several views.
        """
        given = self.recipe
        if given is None:
            view = supervised.crop_and_flip(preprocessing)
            given = recipes.Recipe(view, "crop_and_flip")
        given = recipes.get(given)
        if len(given) != 1:
            raise ValueError(
                f"The recipe {getattr(given, 'name', 'custom')!r} has {len(given)} "
                "views, but this training takes one; choose a recipe of one view, for "
                "example recipe[:1] in Python."
            )
        changes = {"mean": preprocessing.mean, "std": preprocessing.std}
        if self.rand_augment:
            changes |= {
                "rand_augment": self.rand_augment,
                "rand_augment_magnitude": self.rand_augment_magnitude,
            }
        if self.erase:
            changes["erase"] = self.erase
        given = recipes.Recipe([given[0].untiled()], given.name)
        return given.scaled(preprocessing.size, **changes)

    def lengths(self, count, replicas):
        """`(batch_size, epochs)`, where they are not given by the number of images."""
        # Mixes are of two images, and every replica makes its own.
        alike = replicas * (2 if self.mixup or self.cutmix else 1) * self.repeats
        return lengths(self.batch_size, self.epochs, count, alike)


@dataclasses.dataclass(frozen=True)
class Course:
    """How classifiers are trained on some images, whatever they begin with.

    Attributes:
        task: name of the task, for the record.
        labelled: `labelled_images.LabelledImages`.
        learning: `Learning`.
        preprocessing: `data.Preprocessing` of the encoder.
        seed: int.
        strategy: `tf.distribute.Strategy`.
        optimization: `groups.Optimization`.
        devices: `groups.Devices`.
        saves: `Saving`.
        monitors: `judging_epochs.Validating`.
        hooks: `groups.Hooks`.
    """

    task: str
    labelled: labelled_images.LabelledImages
    learning: Learning
    preprocessing: data_lib.Preprocessing
    seed: int
    strategy: Any
    optimization: groups.Optimization
    devices: groups.Devices
    saves: Saving
    monitors: judging_epochs.Validating
    hooks: groups.Hooks

    def plan(self, compared, teacher=None):
        """The `trainer.Plan`.

        Args:
            compared: dict, what a start in the folder is compared by beside the images.
            teacher: `teachers.Teacher`, or None.
        """
        images, learning = self.labelled.train, self.learning
        batch_size, epochs = learning.lengths(
            images.num_images, self.strategy.num_replicas_in_sync
        )
        return trainer.Plan(
            images,
            learning.view(self.preprocessing),
            epochs=epochs,
            batch_size=batch_size,
            seed=self.seed,
            augment=learning.augment,
            repeats=learning.repeats,
            bad_files=pipeline.BadFiles(max_fraction=self.monitors.max_bad_fraction),
            task=self.task,
            own_preprocessing=self.preprocessing,
            compared=compared | {"budget": self.labelled.told_in_record()},
            teacher=teacher,
        )

    def trainer(self, out, given, compared, teacher=None):
        """The `trainer.Trainer` of a classifier; the arguments are those of `train`."""
        return trainer_of(self, self.plan(compared, teacher), out, given)

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
        training = self.trainer(out, given, compared, teacher)
        plan, monitors = training.plan, self.monitors
        watch = judging_epochs.Watch(
            plan,
            self.labelled,
            every=monitors.every(plan, self.labelled.validation, spaced(plan.epochs)),
            max_bad_fraction=monitors.max_bad_fraction,
            callbacks=self.hooks.callbacks,
        )
        return training.train(make_model, watch), training


def trainer_of(course, plan, out, given):
    """The `trainer.Trainer` of a course, of classifiers or of segmenters.

    Args:
        course: a `Course`, or that of `segmenting`.
        plan: `trainer.Plan`, one of its.
        out: the folder.
        given: dict, the arguments of the task.
    """
    saves = course.saves
    return trainer.Trainer(
        plan,
        out,
        given,
        strategy=course.strategy,
        optimization=course.optimization,
        devices=course.devices,
        saves=dataclasses.replace(
            saves,
            init_from=given["init_from"],
            checkpoint_epochs=saves.checkpoint_epochs or spaced(plan.epochs),
        ),
        verbose=course.hooks.verbose,
    )


def lengths(batch_size, epochs, count, alike):
    """`(batch_size, epochs)`, where they are None by the number of images.

    Args:
        batch_size: int or None.
        epochs: int or None.
        count: int, images.
        alike: int, that the batch size is to be a multiple of.
    """
    if batch_size is None:
        batch_size = max(min(_BATCH_SIZE, count) // alike, 1) * alike
    if epochs is None:
        epochs = max(_EPOCHS, -(-_STEPS // max(1, count // batch_size)))
    return batch_size, epochs


def spaced(epochs):
    """Epochs between records, validations and checkpoints, unless it is said."""
    return max(1, epochs // _RECORDS)


def opened(images, preprocessing):
    """How the images of an encoder are opened, a `groups.TrainingImages`.

    Args:
        images: `groups.TrainingImages` as given.
        preprocessing: `data.Preprocessing` of the encoder.

    Raises:
        ValueError: if other channels are asked for.
    """
    channels = preprocessing.channels
    if images.channels not in (None, channels):
        raise ValueError(
            f"channels={images.channels} received, but the encoder takes images of "
            f"{channels} channel(s); leave channels out."
        )
    depth = resolve.bit_depth(images.bit_depth, preprocessing)
    return dataclasses.replace(images, channels=channels, bit_depth=depth)


def check_baseline(validation, optimization):
    """Raises `ValueError` for a baseline that cannot be trained, or not be judged."""
    if validation is None:
        raise ValueError(
            "baseline received without validation images, on which it would be "
            "compared; give validation_data or validation_fraction, or leave it out."
        )
    if not isinstance(optimization.optimizer, str):
        raise ValueError(
            f"baseline received with a Keras optimizer "
            f"({type(optimization.optimizer).__name__}), which trains one network "
            "only; give it by its name (optimizer='adamw', optimizer_args)."
        )


def of_baseline(given):
    """The arguments of a task for its baseline: from scratch, in a folder inside.

    Args:
        given: dict, the arguments of the task.
    """
    own = {
        "out": os.path.join(given["out"], "baseline"),
        "freeze": "none",
        "layer_decay": 1.0,
        "init_from": None,
        "on_accept": None,
    }
    return given | {name: value for name, value in own.items() if name in given}


def announce_baseline(out, workers, verbose):
    """Says that what begins now is the baseline: its lines are those of a training."""
    if verbose and workers.is_chief:
        print(f"Now the baseline, the same network from scratch, in {out}.")


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
        odd = sorted({*class_names} ^ {*theirs})
        told = f"{odd[0]!r} is not in both" if odd else "they are in another order"
        raise ValueError(
            f"--init_from={init_from} tells {len(theirs)} classes apart and these "
            f"images have {len(class_names)} ({told}); begin "
            "with its encoder instead (--encoder), which gets a new classifier."
        )

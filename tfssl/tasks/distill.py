"""Distillation: from a classifier and images to another classifier, in one call."""

import dataclasses
import os
from typing import Annotated, Any

from tfssl import checks, files, formats
from tfssl.methods import distillation
from tfssl.models import headed
from tfssl.tasks import (
    accept,
    arguments,
    beginnings,
    classification_results,
    classifying,
    cuts,
    groups,
    judging_epochs,
    labelled_images,
    runs,
    teachers,
)
from tfssl.tasks.arguments import Path, Range


@arguments.task
def distill(
    teacher: Path | Any,
    data: Any,
    out: Path = "runs/distill",
    *,
    student: Path | Any = None,
    images: groups.TrainingImages,
    validation: groups.Validation,
    label_weight: Annotated[float, Range(0, 0.99)] = 0.0,
    amount: labelled_images.LabelBudget,
    temperature: groups.Positive = 1.0,
    hard_labels: bool = False,
    preprocessing: Any = None,
    encoder_args: dict | None = None,
    learning: classifying.Learning,
    optimization: classifying.Optimization,
    devices: groups.Devices,
    seed: groups.Seed = 0,
    saves: classifying.Saving,
    monitors: judging_epochs.Validating,
    hooks: groups.Hooks,
):
    """Trains a student to say of images what a teacher says.

    The third stage of SimCLRv2: a fine-tuned classifier labels images that have no
    labels, softly, see `methods.distillation.Distillation`. The run's folder is like
    that of a fine-tuning, and so is what it ends with.

    Args:
        teacher: folder of a fine-tuned run, of an exported classifier or of a version
            of it, or a `.keras` file that holds one. In Python also a
            `formats.Classifier`. It is asked once per view and never trained.
        data: images to learn from, given as for `tfssl.pretrain`; their labels are used
            with `label_weight` only.
        out: folder of the run. Training continues there if it was interrupted.
        student: what the student begins with: the name of a new encoder (a key of
            `models.ENCODERS`, `keras.applications.NAME`), or a trained one as for
            `tfssl.finetune`; None is a new network like the teacher's, without layers
            of a projection head (self-distillation).
        images: see `groups.TrainingImages`.
        validation: see `groups.Validation`; classes are matched with the teacher's by
            name.
        label_weight: share of the cross-entropy with true labels in the loss.
        amount: see `labelled_images.LabelBudget`; for the labels of `label_weight`.
        temperature: of both softmaxes. SimCLRv2 takes 0.1 for self-distillation and 1
            for a smaller student.
        hard_labels: learn the teacher's most likely class alone, as DeiT does, and not
            how likely each is; without a temperature.
        preprocessing: `data.Preprocessing` of the student; None takes its own, of a new
            one the teacher's.
        encoder_args: arguments of a new encoder's builder (`{"width": 0.25}`); of a
            trained vision transformer `relative`, `pooling` and `drop_path`, see
            `models.with_settings` (`{"relative": "blocks"}` in BEiT's fine-tuning).
        learning: see `classifying.Learning`.
        optimization: see `groups.Optimization`.
        devices: see `groups.Devices`.
        seed: seed of weights, order and views.
        saves: see `groups.Saving`.
        monitors: see `judging_epochs.Validating`.
        hooks: see `groups.Hooks`.

    Returns:
        A `runs.Run`, whose `method` is a `Distillation`.

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
    given = arguments.flat(distill, locals())
    accept.check_names(saves.allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    strategy = devices.make_strategy()
    teacher = _classifier(teacher)
    beginning = _beginning(
        student, teacher, preprocessing, encoder_args, learning, seed
    )
    cuts.check(given["teacher"], "teacher", "distill", given)
    cuts.check(student, "student", "distill", given)
    cuts.check(saves.init_from, "init_from", "distill", given)
    images = classifying.opened(images, beginning.preprocessing)
    labelled = labelled_images.taught(
        *validation.sources(
            data, images, seed, class_folders=True, unlabelled=not label_weight
        ),
        teacher.class_names,
        amount,
        with_labels=label_weight > 0,
    ).kept(images)
    preprocessing = dataclasses.replace(
        beginning.preprocessing, max_value=labelled.train.max_value
    )
    asked = teachers.Teacher(teacher, teacher.preprocessing, preprocessing)
    course = classifying.Course(
        "distill",
        labelled,
        learning,
        preprocessing,
        seed=seed,
        strategy=strategy,
        optimization=optimization,
        devices=devices,
        saves=saves,
        monitors=monitors,
        hooks=hooks,
    )

    def make_model():
        return distillation.Distillation(
            beginning.copied(devices.precision),
            asked.layer(),
            class_names=teacher.class_names,
            label_weight=label_weight,
            temperature=temperature,
            hard_labels=hard_labels,
            seed=seed,
            **learning.of_method,
        )

    run, training = course.train(
        out, given, make_model, {"student": beginning.fingerprint}, asked
    )
    classification_results.write(
        {"student": run}, labelled, training, hooks.verbose, teacher=teacher
    )
    return run


def _classifier(teacher):
    """The `formats.Classifier` to learn from."""
    if isinstance(teacher, str | os.PathLike):
        teacher = runs.load_classifier(teacher)
    if not isinstance(teacher, formats.Classifier):
        raise checks.refused(
            "teacher",
            teacher,
            "the folder of a fine-tuned run, a .keras file or a "
            "tfssl.formats.Classifier, which is any Keras model with its classes and "
            "preprocessing",
        )
    if teacher.multilabel:
        raise ValueError(
            f"The teacher {teacher.name!r} tells for each class by itself whether an "
            "image is of it (multi-label), expected one class an image; fine-tune a "
            "student on its labels instead."
        )
    return teacher


def _beginning(student, teacher, preprocessing, encoder_args, learning, seed):
    """What the student begins with."""
    if student is None:
        given = {
            "encoder_args": encoder_args or None,
            "image_size": learning.image_size,
            "crop": learning.crop,
            "preprocessing": preprocessing,
        }
        given = [name for name, value in given.items() if value is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)} received without a student, which then is like "
                "the teacher in all; give student too."
            )
        network = teacher.network
        if isinstance(network, headed.Headed):
            network = network.encoder  # A student has no projection head.
        begun = beginnings.Beginning(network, teacher.preprocessing)
        return dataclasses.replace(begun, network=begun.untrained(None, seed))
    if preprocessing is None and beginnings.is_name(student):
        preprocessing = teacher.preprocessing
    return beginnings.of(
        student,
        head_layer=0,
        preprocessing=preprocessing,
        encoder_args=encoder_args,
        image_size=learning.image_size,
        crop=learning.crop,
        open_images=None,  # Its preprocessing is known.
        seed=seed,
    )

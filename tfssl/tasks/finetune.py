"""Fine-tuning: from an encoder and labelled images to a classifier, in one call."""

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np

from tfssl import checks, files
from tfssl.methods import classification
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
    several_classes,
)
from tfssl.tasks.arguments import Above, Path


@arguments.task
def finetune(
    encoder: Path | Any,
    data: Any,
    out: Path = "runs/finetune",
    *,
    task: Literal["classification", "multilabel"] = "classification",
    images: groups.TrainingImages,
    validation: groups.Validation,
    amount: labelled_images.LabelBudget,
    preprocessing: Any = None,
    encoder_args: dict | None = None,
    head_layer: groups.CountOrZero = 0,
    freeze: str = "none",
    layer_decay: Annotated[float, Above(0, 1)] = 1.0,
    class_weights: dict | None = None,
    balance_classes: bool = False,
    learning: classifying.Learning,
    optimization: classifying.Optimization,
    devices: groups.Devices,
    seed: groups.Seed = 0,
    saves: classifying.Saving,
    monitors: judging_epochs.Validating,
    baseline: bool = False,
    hooks: groups.Hooks,
):
    """Trains a classifier from an encoder and labelled images.

    The encoder and a linear layer on it learn together, see
    `methods.classification.Classification`. The run's folder is like that of a
    pre-training, and continues like it; its `encoder.keras` holds the encoder, the
    layer and the names of the classes (`tfssl.load_classifier`, `tfssl.predict`,
    `tfssl.export`). With validation images it ends with `classification.json` and
    `classification.html`.

    Args:
        encoder: what to begin with: folder of a run of any method, a `.keras` file
            (also that of an exported SavedModel), or the name of a new encoder (a key
            of `models.ENCODERS`, `keras.applications.NAME`). In Python also an encoder
            of `tfssl.load`, or any Keras model together with `preprocessing`. It is
            copied, and stays as it is.
        data: labelled images, given as for `tfssl.pretrain`. Of a folder of images the
            first folder level is the class. Images without a label are left out.
        out: folder of the run. Training continues there if it was interrupted.
        task: `classification`, one class an image, or `multilabel`, any number of
            them: every class is learned by itself, and the score is mean average
            precision, as VOC's.
        images: see `groups.TrainingImages`.
        validation: see `groups.Validation`.
        amount: see `labelled_images.LabelBudget`.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        encoder_args: arguments of a new encoder's builder (`{"width": 0.25}`); of a
            trained vision transformer `relative`, `pooling` and `drop_path`, see
            `models.with_settings` (`{"relative": "blocks"}` in BEiT's fine-tuning).
        head_layer: how many layers of the head that the encoder was trained with stay
            on it and learn too: 1 for few labels, as SimCLRv2 does.
        freeze: what of the encoder does not learn: `none`, `all` (linear probing), or
            a stage, up to which it is frozen (`res4` of a ResNet: all but the last).
        layer_decay: factor of the learning rate per stage from the encoder's end, see
            `Classification`; 0.65 to 0.9 are usual.
        class_weights: factors of the losses by class name (`{"cat": 2.0}`); classes
            that are not named have 1.
        balance_classes: weights in inverse proportion to the classes' numbers of
            images, so that all classes count alike.
        learning: see `classifying.Learning`.
        optimization: see `groups.Optimization`.
        devices: see `groups.Devices`.
        seed: seed of weights, order and views.
        saves: see `groups.Saving`.
        monitors: see `judging_epochs.Validating`.
        baseline: train the same network from random weights too, in `out/baseline`,
            for the report. It needs validation images.
        hooks: see `groups.Hooks`.

    Returns:
        A `runs.Run`, whose `method` is a `Classification`.

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
    given = arguments.flat(finetune, locals())
    accept.check_names(saves.allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    strategy = devices.make_strategy()
    beginning = beginnings.of(
        encoder,
        head_layer=head_layer,
        preprocessing=preprocessing,
        encoder_args=encoder_args,
        image_size=learning.image_size,
        crop=learning.crop,
        open_images=lambda: images.open(data),
        seed=seed,
    )
    cuts.check(encoder, "encoder", "finetune", given)
    cuts.check(saves.init_from, "init_from", "finetune", given)
    images = classifying.opened(images, beginning.preprocessing)
    sources = validation.sources(data, images, seed, class_folders=True)
    prepare = several_classes if task == "multilabel" else labelled_images
    labelled = prepare.prepared(*sources, amount).kept(images)
    if baseline:
        classifying.check_baseline(labelled.validation, optimization)
    preprocessing = dataclasses.replace(
        beginning.preprocessing, max_value=labelled.train.max_value
    )
    learns = {
        "class_names": labelled.class_names,
        "multilabel": labelled.multilabel,
        "class_weights": _weights(class_weights, balance_classes, labelled),
        "seed": seed,
        **learning.of_method,
    }
    course = classifying.Course(
        "finetune",
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

    def fine_tuned():
        network = beginning.copied(devices.precision)
        return classification.Classification(
            network, freeze=freeze, layer_decay=layer_decay, **learns
        )

    def from_scratch():
        network = beginning.untrained(devices.precision, seed)
        return classification.Classification(network, **learns)

    of_scratch = classifying.of_baseline(given)
    into = of_scratch["out"]
    begins_with = {"encoder": "untrained"}
    if baseline:
        course.trainer(into, of_scratch, begins_with).check_folder()
    run, training = course.train(
        out, given, fine_tuned, {"encoder": beginning.fingerprint}
    )
    trained = {"fine-tuned": run}
    if baseline:
        classifying.announce_baseline(into, training.workers, hooks.verbose)
        trained["from scratch"], _ = course.train(
            into, of_scratch, from_scratch, begins_with
        )
    classification_results.write(trained, labelled, training, hooks.verbose)
    return run


def _weights(class_weights, balance_classes, labelled):
    """The weight of each class, or None."""
    names = labelled.class_names
    if not class_weights and not balance_classes:
        return None
    weights = np.ones(len(names))
    if balance_classes:
        if labelled.multilabel:
            raise ValueError(
                "balance_classes=True received with task=multilabel, where every class "
                "is learned by itself; give class_weights, the factors of their 1s."
            )
        counts = np.bincount(labelled.train.labels, minlength=len(names))
        weights = counts.sum() / (len(names) * counts)
    for key, weight in (class_weights or {}).items():
        name = str(key)  # Classes without names go by their numbers.
        if name not in names:
            raise ValueError(
                f"class_weights names {name!r}, expected some of the classes "
                f"{', '.join(names[:20])}."
            )
        checks.positive(
            {f"class_weights[{name!r}]": weight}, f"class_weights[{name!r}]"
        )
        weights[names.index(name)] *= weight
    return tuple(weights.tolist())

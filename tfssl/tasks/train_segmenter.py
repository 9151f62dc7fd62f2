"""Semantic segmentation: from an encoder and maps of classes to a segmenter."""

import dataclasses
import functools
from typing import Any

from tfssl import files
from tfssl.tasks import (
    accept,
    arguments,
    beginnings,
    classifying,
    cuts,
    groups,
    judging_epochs,
    resolve,
    segmentation_results,
    segmenting,
)
from tfssl.tasks.arguments import Path


@arguments.task
def train_segmenter(
    encoder: Path | Any,
    data: Any,
    out: Path = "runs/segmenter",
    *,
    images: groups.TrainingImages,
    validation: groups.Validation,
    maps: segmenting.Maps,
    preprocessing: Any = None,
    encoder_args: dict | None = None,
    freeze: str = "none",
    learning: segmenting.Learning,
    optimization: classifying.Optimization,
    devices: groups.Devices,
    seed: groups.Seed = 0,
    saves: classifying.Saving,
    monitors: judging_epochs.Validating,
    baseline: bool = False,
    hooks: groups.Hooks,
):
    """Trains a segmenter, which says what every pixel shows, from any encoder.

    The encoder and a small pyramid network on its stages learn together, see
    `models.Segmenter` and `methods.Segmentation`. The run's folder is like that of a
    pre-training, and continues like it; it ends with `segmenter.keras`
    (`tfssl.load_segmenter`), and with validation images with `segmentation.json` (mean
    intersection over union) and `segmentation.html`, which draws what it says over
    images.

    Args:
        encoder: what to begin with: folder of a run of any method, a `.keras` file
            (also that of an exported SavedModel), or the name of a new encoder (a key
            of `models.ENCODERS`). In Python also an encoder of `tfssl.load`, or a Keras
            model with `stage_outputs` together with `preprocessing`. It is copied, and
            stays as it is.
        data: images with maps of classes, given as for `tfssl.pretrain`: a manifest
            whose column `channels:NAME:mapN` names a PNG or TIFF file of N classes for
            each image, of the same size (255 is no class); `scenes`; or images with a
            channel for each class (`map_start`). Labels are not used.
        out: folder of the run. Training continues there if it was interrupted.
        images: see `groups.TrainingImages`.
        validation: see `groups.Validation`.
        maps: see `segmenting.Maps`.
        preprocessing: `data.Preprocessing`; None takes the encoder's own. Its `crop`
            does not count: a segmenter sees whole images, which its masks are of.
        encoder_args: arguments of a new encoder's builder (`{"width": 0.25}`); of a
            trained vision transformer `relative`, `pooling` and `drop_path`, see
            `models.with_settings` (`{"relative": "blocks"}` in BEiT's segmentation).
        freeze: what of the encoder does not learn: `none`, `all`, or a stage, up to
            which it is frozen.
        learning: see `segmenting.Learning`.
        optimization: see `groups.Optimization`.
        devices: see `groups.Devices`.
        seed: seed of weights, order and views.
        saves: see `groups.Saving`.
        monitors: see `judging_epochs.Validating`.
        baseline: train the same network from random weights too, in `out/baseline`,
            for the report. It needs validation images.
        hooks: see `groups.Hooks`.

    Returns:
        A `runs.Run`, whose `method` is a `Segmentation`.

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
    given = arguments.flat(train_segmenter, locals())
    accept.check_names(saves.allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    strategy = devices.make_strategy()
    if devices.remat:
        raise ValueError(
            "remat=True received, but a segmenter is made of the feature maps inside "
            "of its encoder, which remat does not keep; leave it out."
        )

    @functools.cache
    def of_depth(depth):
        opened = dataclasses.replace(images, bit_depth=depth)
        return maps.prepared(*validation.sources(data, opened, seed, unlabelled=True))

    cuts.check(encoder, "encoder", "train_segmenter", given)
    cuts.check(saves.init_from, "init_from", "train_segmenter", given)
    beginning = beginnings.of(
        encoder,
        preprocessing=preprocessing,
        encoder_args=encoder_args,
        image_size=learning.image_size,
        open_images=lambda: of_depth(images.bit_depth).train,
        seed=seed,
        channels=lambda: of_depth(images.bit_depth).channels,
    )
    mapped = of_depth(resolve.bit_depth(images.bit_depth, beginning.preprocessing))
    if baseline:
        classifying.check_baseline(mapped.validation, optimization)
    course = segmenting.Course(
        mapped.kept(images),
        learning,
        dataclasses.replace(beginning.preprocessing, crop=1.0),
        seed=seed,
        strategy=strategy,
        optimization=optimization,
        devices=devices,
        saves=saves,
        monitors=monitors,
        hooks=hooks,
    )
    of_scratch = classifying.of_baseline(given)
    into = of_scratch["out"]
    if baseline:
        course.trainer(into, of_scratch, "untrained").check_folder()
    run, training = course.train(
        out,
        given,
        lambda: beginning.copied(devices.precision),
        beginning.fingerprint,
        freeze,
    )
    trained = {"trained": run}
    if baseline:
        classifying.announce_baseline(into, training.workers, hooks.verbose)
        trained["from scratch"], _ = course.train(
            into,
            of_scratch,
            lambda: beginning.untrained(devices.precision, seed),
            "untrained",
        )
    segmentation_results.write(trained, course.mapped, training, hooks.verbose)
    return run

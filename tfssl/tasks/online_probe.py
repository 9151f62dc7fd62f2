"""The online probe of a run, from its settings."""

import numpy as np

from tfssl import data as data_lib
from tfssl.data import labels, pipeline
from tfssl.evaluation import supervised
from tfssl.optimizers import schedules
from tfssl.tasks import apart
from tfssl.training import online_probe

_RATE = 0.1  # Times batch / 256.


def images(data, train, validation, opened, chosen):
    """The source of the images that the probe trains on, or None where it is off.

    Args:
        data: the training images, as given.
        train: their source.
        validation: the validation source, or None.
        opened: `groups.TrainingImages`, how `train` was opened.
        chosen: `groups.Monitors`.

    Raises:
        ValueError: if labels or validation images are missing, or the probe has data of
            its own, among which are validation images.
    """
    epochs, split = chosen.online_probe_epochs, chosen.online_probe_split
    own = chosen.online_probe_data is not None or split is not None
    if not epochs:
        if own:
            raise ValueError(
                "online_probe_data or online_probe_split received, but the probe is "
                "off; set online_probe_epochs=1."
            )
        return None
    source = train
    if own:
        where = data if chosen.online_probe_data is None else chosen.online_probe_data
        source = opened.open(where, beside=True, split=split, channels=train.channels)
        if validation is not None:
            apart.check(
                source,
                validation,
                among="those that train the online probe",
                fix="leave online_probe_data and online_probe_split out, so that it "
                "learns from the training images",
            )
            source = data_lib.class_names.matched(source, validation)
    labels.check_single(source, "The online probe")
    missing = None
    if source.labels is None or len(np.unique(source.labels[source.labels >= 0])) < 2:
        missing = "labels of two classes or more to train it on"
    elif not len(labels.labelled(validation)):
        missing = "labelled validation images"
    if missing:
        raise ValueError(
            f"online_probe_epochs={epochs} asks for the accuracy of a probe, but there "
            f"are no {missing}; give online_probe_data, validation_data or "
            "validation_fraction (and labels='folders' for a folder), or set "
            "online_probe_epochs=0."
        )
    return source


def make(trainer, chosen, sources, model, bad_files, path):
    """An `OnlineProbe`, restored.

    Args:
        trainer: `trainer.Trainer`; the first view of its recipe says how the probe's
            images are cropped and flipped.
        chosen: `groups.Monitors`.
        sources: `(images that the probe trains on, validation images)`.
        model: the `Method`.
        bad_files: `BadFiles` of each of them.
        path: the checkpoint that training continues from, or None.
    """
    plan, (source, validation) = trainer.plan, sources
    batch_size = min(plan.batch_size, trainer.images_at_once, source.num_images)
    view = supervised.geometry(plan.recipe[0])

    def batches(position):
        return pipeline.multiview(
            source,
            (view,),
            batch_size=batch_size,
            seed=plan.seed,
            start=position,
            bad_files=bad_files[0],
            with_labels=True,
        )

    test = data_lib.labeled(
        validation,
        plan.preprocessing,
        batch_size=trainer.images_at_once,
        bad_files=bad_files[1],
    )
    probe = online_probe.OnlineProbe(
        batches,
        test,
        source.labels[source.labels >= 0],
        dim=model.feature_dim,
        rate=schedules.scaled_rate(_RATE, batch_size),
        every_steps=chosen.online_probe_steps,
        every=chosen.online_probe_epochs,
        epochs=plan.epochs,
    )
    if path is not None:
        probe.restore(path)
    return probe

"""The online probe of a run, from its settings."""

import numpy as np

from tfssl import data as data_lib
from tfssl.data import pipeline
from tfssl.evaluation import supervised
from tfssl.optimizers import schedules
from tfssl.tasks import resolve
from tfssl.training import online_probe

_RATE = 0.1  # Times batch / 256.


def labelled(train, validation, settings):
    """The images that the probe trains on, or None where it is off.

    Args:
        train: the training source.
        validation: the validation source, or None.
        settings: dict, the arguments of `pretrain`.

    Raises:
        ValueError: if labels or validation images are missing.
    """
    epochs = settings["online_probe_epochs"]
    data, split = settings["online_probe_data"], settings["online_probe_split"]
    if epochs < 0 or settings["online_probe_steps"] < 1:
        raise ValueError(
            f"online_probe_epochs={epochs}, online_probe_steps="
            f"{settings['online_probe_steps']} received, expected at least 0 and 1."
        )
    if not epochs:
        if data is not None or split is not None:
            raise ValueError(
                "online_probe_data or online_probe_split received, but the probe is "
                "off; set online_probe_epochs=1."
            )
        return None
    source = train
    if data is not None or split is not None:
        data = settings["data"] if data is None else data
        source = resolve.source(
            data,
            data_args=settings["data_args"],
            beside=True,
            split=split,
            channels=train.channels,
            labels=settings["labels"],
            bit_depth=settings["bit_depth"],
            data_dir=settings["data_dir"],
        )
        if validation is not None:
            source = data_lib.class_names.matched(source, validation)
    missing = None
    if source.labels is None or len(np.unique(source.labels[source.labels >= 0])) < 2:
        missing = "labels of two classes or more to train it on"
    elif validation is None or validation.labels is None:
        missing = "labelled validation images"
    if missing:
        raise ValueError(
            f"online_probe_epochs={epochs} asks for the accuracy of a probe, but there "
            f"are no {missing}; give online_probe_data, validation_data or "
            "validation_fraction (and labels='folders' for a folder), or set "
            "online_probe_epochs=0."
        )
    return source


def callbacks(source, validation, recipe, preprocessing, model, bad, settings, path):
    """`[OnlineProbe]`, restored, or `[]` where it is off.

    Args:
        source: of `labelled`.
        validation: the validation source.
        recipe: the run's recipe, whose first view says how the probe's images are
            cropped and flipped.
        preprocessing: of the validation images.
        model: the `Method`.
        bad: `(of the probe's images, of the validation images)`, `BadFiles`.
        settings: dict, the arguments of `pretrain`.
        path: the checkpoint that training continues from, or None.
    """
    if source is None:
        return []
    batch_size = min(settings["batch_size"], source.num_images)
    view = supervised.geometry(recipe[0])

    def batches(position):
        return pipeline.multiview(
            source,
            (view,),
            batch_size=batch_size,
            seed=settings["seed"],
            start=position,
            bad_files=bad[0],
            with_labels=True,
        )

    test = data_lib.labeled(
        validation, preprocessing, batch_size=settings["batch_size"], bad_files=bad[1]
    )
    probe = online_probe.OnlineProbe(
        batches,
        test,
        source.labels[source.labels >= 0],
        dim=model.feature_dim,
        rate=schedules.scaled_rate(_RATE, batch_size),
        every_steps=settings["online_probe_steps"],
        every=settings["online_probe_epochs"],
        epochs=settings["epochs"],
    )
    if path is not None:
        probe.restore(path)
    return [probe]

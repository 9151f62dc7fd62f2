"""What watches a pre-training run: its callbacks, and the images they look at."""

import os

import numpy as np
import tensorflow as tf

from tfssl import data as data_lib
from tfssl.tasks import clustering
from tfssl.training import checkpoint, monitors

_MONITORED_IMAGES = 256


def callbacks(images, sets, probes, steps_per_epoch, workers, settings, *, clusters):
    """The callbacks of a run, in the order in which they must be called.

    Args:
        images: of `fixed_images`.
        sets: of `knn_sets`.
        probes: of `online_probe.callbacks`.
        steps_per_epoch: int.
        workers: `workers.Workers`; the same callbacks run on all of them, but for
            those that only write.
        settings: dict, the arguments of `pretrain`.
        clusters: bool, whether the method clusters its images.

    Returns:
        List of Keras callbacks.
    """
    out, epochs = settings["out"], settings["epochs"]
    folder = os.path.join(out, "checkpoints")
    found = [
        monitors.Throughput(settings["batch_size"]),
        monitors.NonFinite(lambda: checkpoint.latest(folder)),
        monitors.Collapse(images, stop=settings["stop_on_collapse"], workers=workers),
        *(
            monitors.OnlineKNN(
                *pair,
                every=settings["knn_epochs"],
                epochs=epochs,
                k=settings["knn_k"],
                temperature=settings["knn_temperature"],
                workers=workers,
            )
            for pair in sets
        ),
        *probes,
    ]
    if clusters:
        found.append(clustering.ClusterNumbers())
    if workers.is_chief:
        found.append(monitors.History(out, steps_per_epoch))
    return found


def fixed_images(source, preprocessing, bad_files):
    """The first images, for the collapse monitor: `(n, size, size, channels)`."""
    count = min(_MONITORED_IMAGES, source.num_images)
    dataset = data_lib.labeled(
        source,
        preprocessing,
        batch_size=count,
        indices=np.arange(count),
        bad_files=bad_files,
    )
    batch = next(iter(dataset))
    return tf.boolean_mask(batch["image"], batch["mask"])


def knn_sets(train, validation, preprocessing, bad_train, bad_queries, settings):
    """`[(bank, queries)]` for the kNN monitor, or `[]` where it is off."""
    knn_epochs = settings["knn_epochs"]
    if not knn_epochs:
        return []
    missing = None
    if validation is None:
        missing = "validation images"
    elif train.labels is None or validation.labels is None:
        missing = "labels"
    if missing:
        raise ValueError(
            f"knn_epochs={knn_epochs} asks for kNN accuracy, but there are no "
            f"{missing}; give validation_data or validation_fraction (and "
            "labels='folders' for a folder), or set knn_epochs=0."
        )
    bank, queries = (
        data_lib.labeled(
            source,
            preprocessing,
            batch_size=settings["batch_size"],
            bad_files=bad,
        )
        for source, bad in ((train, bad_train), (validation, bad_queries))
    )
    return [(bank, queries)]

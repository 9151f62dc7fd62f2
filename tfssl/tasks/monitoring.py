"""What watches a pre-training run: its callbacks, and the images they look at."""

import os

import numpy as np
import tensorflow as tf

from tfssl import data as data_lib
from tfssl.data import labels
from tfssl.tasks import clustering
from tfssl.training import checkpoint, history, monitors

_MONITORED_IMAGES = 256


def callbacks(images, sets, probes, bad_files, workers, settings, *, clusters):
    """What watches a run, in the order in which it must be called.

    An error of a monitor is a warning; the two that may stop a training still can.

    Args:
        images: of `fixed_images`.
        sets: of `knn_sets`.
        probes: of `online_probe.callbacks`.
        bad_files: the `BadFiles` of all that monitors read.
        workers: `workers.Workers`; the same callbacks run on all of them, but for
            those that only write.
        settings: dict, the arguments of `pretrain`.
        clusters: bool, whether the method clusters its images.

    Returns:
        List of Keras callbacks.
    """
    folder = os.path.join(settings["out"], "checkpoints")
    found = [
        monitors.Collapse(images, stop=settings["stop_on_collapse"], workers=workers),
        *(
            monitors.OnlineKNN(
                *pair,
                every=settings["knn_epochs"],
                epochs=settings["epochs"],
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
        curves = os.path.join(settings["out"], "tensorboard")
        found.append(history.Curves(curves))
    return [
        monitors.Throughput(settings["batch_size"]),
        monitors.NonFinite(lambda: checkpoint.latest(folder)),
        *(monitors.Harmless(one, workers, bad_files) for one in found),
    ]


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
    """What the kNN monitor looks at: images without a label are left out.

    Returns:
        `(sets, told)`: `[(bank, queries)]`, or `[]` where the monitor is off, and lines
        for the start of the run.

    Raises:
        ValueError: if there are no labelled images on one of the sides.
    """
    knn_epochs = settings["knn_epochs"]
    if not knn_epochs:
        return [], []
    pair, told = [], []
    for source, bad, part in (
        (train, bad_train, "training"),
        (validation, bad_queries, "validation"),
    ):
        rows = labels.labelled(source)
        if not len(rows):
            missing = "validation images" if source is None else f"{part} labels"
            raise ValueError(
                f"knn_epochs={knn_epochs} asks for kNN accuracy, but there are no "
                f"{missing}; give validation_data or validation_fraction (and "
                "labels='folders' for a folder), or set knn_epochs=0."
            )
        if len(rows) < source.num_images:
            told.append(
                f"kNN monitor: the {len(rows):,} of {source.num_images:,} {part} "
                "images that have a label"
            )
        dataset = data_lib.labeled(
            source,
            preprocessing,
            batch_size=settings["batch_size"],
            indices=rows,
            bad_files=bad,
        )
        pair.append(dataset)
    return [tuple(pair)], told

"""A picture of what a method makes of images, at the end of its training."""

import os

import tensorflow as tf

from tfssl import data as data_lib
from tfssl import files, methods
from tfssl.data import each_once
from tfssl.evaluation import pictures
from tfssl.training import monitors

PICTURES = "pictures.png"  # In the folder of a run.
_SHOWN = 16


def write(run, held_out, training):
    """Writes `pictures.png`, on the chief, where it can.

    Args:
        run: `runs.Run`.
        held_out: source of images that did not train, or None.
        training: `trainer.Trainer`.
    """
    if run.method.pictured is None:
        return
    workers, plan = training.workers, training.plan
    path = os.path.join(run.path, PICTURES)
    # The others wait: one that ends may take the chief with it.
    with workers.losses_explained(), workers.parting():
        if not workers.is_chief:
            return
        with monitors.errors_logged(path):
            source = plan.train if held_out is None else held_out
            shown = each_once.some(source, _SHOWN)
            dataset = data_lib.labeled(
                source, plan.preprocessing, batch_size=len(shown), indices=shown
            )
            images = next(iter(dataset))["image"]
            pixels = pictures.sheet(run.method.pictures(images))
            files.write_bytes(path, tf.io.encode_png(pixels).numpy())


def sheets(run, method):
    """`sheets` of the report of a run's folder: what was drawn, by its heading."""
    path = os.path.join(run, PICTURES)
    if method not in methods.METHODS or not tf.io.gfile.exists(path):
        return {}
    return {methods.METHODS[method].pictured: path}

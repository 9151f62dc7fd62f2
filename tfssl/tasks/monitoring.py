"""What watches a pre-training: its callbacks, and the images that they look at."""

import os

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import data as data_lib
from tfssl.data import each_once, labels, pipeline
from tfssl.methods import gradient_watch
from tfssl.tasks import epoch_judges, online_probe
from tfssl.training import checkpoint, history, monitors

_MONITORED_IMAGES = 256
_BANK = 50_000  # Training images of the kNN monitor at most; of more, random ones.


class Watch:
    """The monitors of a pre-training; what they need is checked here, at the start.

    Args:
        plan: `trainer.Plan`.
        chosen: `groups.Monitors`.
        validation: source of labelled images that do not train, or None.
        probed: source of the images that the online probe trains on, or None.
        callbacks: Keras callbacks of the user's, called after the monitors.

    Attributes:
        best_by: the number of an epoch by which the best checkpoint is kept.
        told: lines for the start of the run.
        bad_files: the `BadFiles` of what monitors read besides training images.

    Raises:
        ValueError: for a monitor without the labels or images that it needs.
    """

    best_by = "knn_accuracy"

    def __init__(self, plan, chosen, validation, probed, callbacks=()):
        self._plan, self._chosen = plan, chosen
        self._validation, self._probed = validation, probed
        self._callbacks = list(callbacks)
        self.bad_files = [
            pipeline.BadFiles(max_fraction=chosen.max_bad_fraction) for _ in range(2)
        ]
        self.told = []
        self._knn = self._knn_sets() if chosen.knn_epochs else None
        self._kept = []  # Monitors with a state of their own.

    def variables(self):
        """What of the monitors is saved beside the model: named tensors."""
        return {k: v for one in self._kept for k, v in one.variables().items()}

    def judging(self):
        """What `best_by` depends on, see `epoch_judges.judging`; None where it is off.

        Called on the chief alone.
        """
        if self._knn is None:
            return None
        return epoch_judges.judging(
            self._validation,
            self._plan.train,
            knn_k=self._chosen.knn_k,
            knn_temperature=self._chosen.knn_temperature,
        )

    def callbacks(self, model, trainer, resumed):
        """All that watches, in the order in which it must be called.

        An error of a monitor is a warning; the two that may stop a training still can.

        Args:
            model: the `Method`.
            trainer: `trainer.Trainer`; the same callbacks run on all workers, but for
                those that only write.
            resumed: the checkpoint that training continues from, or None.

        Returns:
            List of Keras callbacks.
        """
        chosen, workers = self._chosen, trainer.workers
        self._kept = []
        if chosen.watch_gradients:
            steps = self._plan.steps_per_epoch
            model.gradient_watch = gradient_watch.GradientWatch(
                steps, _largest_gradient(resumed)
            )
            self._kept.append(monitors.LargestGradient(model.gradient_watch))
        if self._probed is not None:
            self._kept.append(
                online_probe.make(
                    trainer,
                    chosen,
                    (self._probed, self._validation),
                    model,
                    self.bad_files,
                    resumed,
                )
            )
        images = fixed_images(self._plan)
        found = [
            monitors.Collapse(
                images,
                at_once=trainer.images_at_once,
                stop=chosen.stop_on_collapse,
                workers=workers,
            )
        ]
        if self._knn:
            bank, queries = (
                data_lib.labeled(
                    source,
                    self._plan.preprocessing,
                    batch_size=trainer.images_at_once,
                    indices=rows,
                    bad_files=bad,
                )
                for source, rows, bad in self._knn
            )
            found.append(
                monitors.OnlineKNN(
                    bank,
                    queries,
                    every=chosen.knn_epochs,
                    epochs=self._plan.epochs,
                    k=chosen.knn_k,
                    temperature=chosen.knn_temperature,
                    workers=workers,
                )
            )
        found += [*self._kept, history.EpochNumbers(self._plan.batch_size)]
        return in_order(found, trainer, self.bad_files, self._callbacks)

    def _knn_sets(self):
        """Bank and queries of the kNN monitor, of images that have a label.

        Returns:
            Two of `(source, rows, BadFiles)`.
        """
        plan, pair = self._plan, []
        for source, bad, part, most in (
            (plan.train, plan.bad_files, "training", _BANK),
            (self._validation, self.bad_files[1], "validation", None),
        ):
            labels.check_single(source, "The kNN monitor (knn_epochs)")
            rows = labels.labelled(source)
            if not len(rows):
                missing = "validation images" if source is None else f"{part} labels"
                raise ValueError(
                    f"knn_epochs={self._chosen.knn_epochs} asks for kNN accuracy, but "
                    f"there are no {missing}; give validation_data or "
                    "validation_fraction (and labels='folders' for a folder), or set "
                    "knn_epochs=0."
                )
            if len(rows) < source.num_images:
                self.told.append(
                    f"kNN monitor: the {len(rows):,} of {source.num_images:,} {part} "
                    "images that have a label"
                )
            if most and len(rows) > most:
                self.told.append(
                    f"kNN monitor: of {len(rows):,} {part} images {most:,}, drawn at "
                    "random, are its bank"
                )
                chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
                rows = rows[np.sort(chosen)]
            pair.append((source, rows, bad))
        return pair


def in_order(found, trainer, bad_files, callbacks):
    """All that watches a training, in the order in which it must be called.

    Args:
        found: callbacks that measure: an error of theirs is a warning.
        trainer: `trainer.Trainer`.
        bad_files: the `BadFiles` of what they read besides training images.
        callbacks: Keras callbacks of the user's.
    """
    plan, workers = trainer.plan, trainer.workers
    if workers.is_chief:
        curves = history.Curves(os.path.join(trainer.out, "tensorboard"))
        found = [*found, curves]
    return [
        monitors.Throughput(plan.batch_size),
        monitors.NonFinite(lambda: checkpoint.latest(trainer.checkpoints)),
        *(
            monitors.Harmless(one, workers, [plan.bad_files, *bad_files])
            for one in found
        ),
        *callbacks,
    ]


def _largest_gradient(resumed):
    """That of the steps before a checkpoint (or None) in its epoch; 0 if unknown."""
    name, unknown = monitors.LARGEST_GRADIENT, tf.constant(0.0)
    try:
        found = resumed and checkpoint.read_also(resumed, {name: unknown})
    except checkpoint.DamagedCheckpoint as error:
        logging.warning("%s", error)
        found = None
    return found[name].numpy() if found else 0.0


def fixed_images(plan):
    """Some images, for a monitor: `(n, size, size, channels)`; see `each_once.some`."""
    indices = each_once.some(plan.train, _MONITORED_IMAGES)
    dataset = data_lib.labeled(
        plan.train,
        plan.preprocessing,
        batch_size=len(indices),
        indices=indices,
        bad_files=plan.bad_files,
    )
    batch = next(iter(dataset))
    return tf.boolean_mask(batch["image"], batch["mask"])

"""The training images, as a method may ask for them between epochs."""

import functools

import numpy as np

from tfssl import data as data_lib
from tfssl import kmeans
from tfssl.evaluation import features as features_lib


class EpochImages:
    """What `Method.before_epoch` gets.

    Args:
        encoder: that of the method.
        plan: `trainer.Plan`.
        workers: `workers.Workers`.
        first_views: function without arguments -> a training dataset whose views are
            not those of an epoch.
        images_at_once: int, of a pass on one device.

    Attributes:
        workers: as given. Whatever a method does, it does on all of them.
        steps: int, steps of an epoch.
        count: int, images of an epoch.
    """

    def __init__(self, encoder, plan, workers, first_views, images_at_once):
        self.workers = workers
        self.steps = plan.steps_per_epoch
        self.count = self.steps * plan.batch_size
        self._encoder = encoder
        self._plan = plan
        self._first_views = first_views
        self._images_at_once = images_at_once

    def views(self):
        """An iterator of training batches for `fill`, with views of their own."""
        return iter(self._first_views())

    def features(self, reduction):
        """Reduced features of all readable images, each seen once and without chance.

        Each worker makes the features of its part of the images (on one device); they
        are reduced before workers exchange them.

        Args:
            reduction: function of the `kmeans.Moments` of the features of all workers
                -> an object whose `transform` takes `(n, feature_dim)` to `(n, dim)`.

        Returns:
            `(rows, index)`: float32 `(n, dim)`, the same on all workers, and which
            images they are.

        Raises:
            ValueError: on all workers, if one cannot make its features.
        """
        source, workers = self._plan.train, self.workers
        moments, error = kmeans.Moments(self._encoder.output_shape[-1]), None
        try:
            mine = self._extract(self._mine)
            moments.update(mine.values)
        except ValueError as raised:
            error = raised
        (failed,) = workers.any(error is not None)
        if failed:
            # On all workers: one that waits for numbers would only know of a loss.
            raise error or ValueError(
                "Another worker could not make the features of its images; it says why."
            )
        for name in ("total", "products"):
            setattr(moments, name, workers.sum(getattr(moments, name)))
        moments.count = int(workers.sum(moments.count))
        rows = reduction(moments).transform(mine.values)
        everyones = np.zeros((source.num_images, rows.shape[1]), np.float32)
        present = np.zeros(source.num_images)
        everyones[mine.index], present[mine.index] = rows, 1
        index = np.flatnonzero(workers.sum(present))
        return workers.sum(everyones)[index], index

    @functools.cached_property
    def _extract(self):
        return features_lib.Extractor(self._encoder)

    @functools.cached_property
    def _mine(self):
        """This worker's part of the images, as they are for the encoder."""
        plan, workers = self._plan, self.workers
        parts = np.array_split(np.arange(plan.train.num_images), workers.count)
        return data_lib.labeled(
            plan.train,
            plan.preprocessing,
            batch_size=self._images_at_once,
            indices=parts[workers.index],
            bad_files=plan.bad_files,
        )

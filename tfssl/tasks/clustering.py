"""What happens between the epochs of a method that clusters its images.

The features of all images (or the embeddings that the method has kept) are clustered,
and the next epoch learns the clusters. It happens at the first step of an epoch only,
from what a checkpoint of that step holds: a run that is resumed there clusters again,
with the same result, and one that is resumed later does not.
"""

import keras
import numpy as np
from absl import logging

from tfssl import data as data_lib
from tfssl import kmeans
from tfssl.evaluation import clusters as clusters_lib
from tfssl.evaluation import features as features_lib
from tfssl.memory import Assignments


class Clustering:
    """Clusters the images of a run before its epochs.

    Args:
        model: a `Method` with `clusters` set.
        source: the training images.
        preprocessing: `Preprocessing` of clean images.
        first_views: function without arguments -> a training dataset, from which a
            method that keeps embeddings takes its first ones.
        batch_size: int, global batch; also that of the feature pass.
        bad_files: `BadFiles`.
        workers: `workers.Workers`. Each makes the features of its part of the images
            (on one device); all of them run k-means on all, and then take the chief's
            result.
    """

    def __init__(
        self,
        model,
        source,
        preprocessing,
        *,
        first_views,
        batch_size,
        bad_files,
        workers,
    ):
        if not source.random_access and model.clusters == "features":
            raise ValueError(
                f"{source.name} is read in sequence, but {type(model).__name__} draws "
                "images by their cluster; use a folder, arrays or TFRecord files with "
                "an index."
            )
        self.model = model
        self.source = source
        self.batch_size = batch_size
        self._first_views = first_views
        self.workers = workers
        self._steps = data_lib.pipeline.steps_per_epoch(source, batch_size)
        if model.clusters == "features":
            self._extract = features_lib.Extractor(model.encoder)
            parts = np.array_split(np.arange(source.num_images), workers.count)
            self._mine = data_lib.labeled(
                source,
                preprocessing,
                batch_size=batch_size,
                indices=parts[workers.index],
                bad_files=bad_files,
            )

    def before_epoch(self, epoch):
        """Clusters the images, if it is time to.

        Args:
            epoch: int, the epoch that begins.

        Raises:
            ValueError: if features are not finite, or too few for the clusters.
        """
        model = self.model
        if epoch % model.reassign_epochs:
            return
        before = model.assignments.clusters.numpy()
        if model.clusters == "features":
            found = [model.reassign(*self._features())]
        else:
            if epoch == 0:
                model.fill(iter(self._first_views()), self._steps)
            found = model.reassign()
        state = [model.assignments.clusters, *getattr(model, "prototypes", ())]
        numbers = _numbers(before, model.assignments.clusters.numpy(), found)
        model.assignments.numbers.assign(self.workers.chiefs(numbers))
        if self.workers.count > 1:
            for variable in state:
                variable.assign(self.workers.chiefs(variable.numpy()))
        if self.workers.is_chief:
            told = ", ".join(
                f"{name} {value:.4g}"
                for name, value in zip(Assignments.NUMBERS, numbers)
            )
            logging.info("Clustered before epoch %d: %s", epoch + 1, told)

    def sampling(self, epoch):
        """The images of an epoch, or None for a shuffle of all."""
        if self.model.clusters != "features":
            return None
        return self.model.sampling(epoch, self._steps * self.batch_size)

    def _features(self):
        """Reduced features of all readable images, and which images they are."""
        moments, error = kmeans.Moments(self.model.feature_dim), None
        try:
            mine = self._extract(self._mine)
            moments.update(mine.values)
        except ValueError as raised:
            error = raised
        (failed,) = self.workers.any(error is not None)
        if failed:
            # On all workers: one that waits for numbers would only know of a loss.
            raise error or ValueError(
                "Another worker could not make the features of its images; it says why."
            )
        for name in ("total", "products"):
            setattr(moments, name, self.workers.sum(getattr(moments, name)))
        moments.count = int(self.workers.sum(moments.count))
        rows = self.model.pca(moments).transform(mine.values)
        everyones = np.zeros((self.source.num_images, rows.shape[1]), np.float32)
        present = np.zeros(self.source.num_images)
        everyones[mine.index], present[mine.index] = rows, 1
        index = np.flatnonzero(self.workers.sum(present))
        return self.workers.sum(everyones)[index], index


def _numbers(before, after, found):
    """`Assignments.NUMBERS` of one or several clusterings, float32."""
    similar = [
        clusters_lib.nmi(old[known], new[known])
        for old, new in zip(before, after)
        if (known := (old >= 0) & (new >= 0)).any()
    ]
    sizes = np.concatenate([clustering.sizes for clustering in found])
    numbers = {
        "kmeans_objective": np.mean(
            [c.objective / len(c.assignments) for c in found], dtype=np.float64
        ),
        "cluster_nmi": np.mean(similar) if similar else 0.0,
        "largest_cluster": sizes.max(),
        "smallest_cluster": sizes.min(),
        "empty_clusters": (sizes == 0).sum(),
    }
    return np.array([numbers[name] for name in Assignments.NUMBERS], np.float32)


class ClusterNumbers(keras.callbacks.Callback):
    """Adds what is known of the last clustering to the logs of every epoch.

    `kmeans_objective` is the mean squared distance of an image to its centroid,
    `cluster_nmi` the normalized mutual information with the clustering before (it
    should rise, and stay below 1; 0 before there are two), the others are sizes in
    images and a count.
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            values = self.model.assignments.numbers.numpy()
            logs.update(zip(Assignments.NUMBERS, map(float, values)))

"""DeepCluster (Caron et al., 2018), https://arxiv.org/abs/1807.05520.

Once per epoch the features of all images, without augmentation, are clustered by
k-means; then the network learns to tell augmented images' clusters apart, with a
classifier that starts anew.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks, kmeans, memory
from tfssl import optimizers as optimizers_lib
from tfssl.data.views import recipes
from tfssl.losses import clustering
from tfssl.methods import base, reclustering


@keras.saving.register_keras_serializable(package="tfssl")
class DeepCluster(base.Method):
    """DeepCluster: classify images into the clusters of their own features.

    `before_epoch` clusters the images, and `sampling` draws those of the epoch cluster
    by cluster; `tfssl.pretrain` calls both. By hand::

        moments = kmeans.Moments(method.feature_dim)
        moments.update(features)                      # Of clean images, in any order.
        rows = method.pca(moments).transform(features)
        method.reassign(rows, index)

    and the images of the next epoch are `data.multiview(…,
    sampling=method.sampling(…))`. `fit` by itself does neither, and refuses to train
    without clusters.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`, whose features are
            those before the last ReLU (`models.encoder("alexnet", sobel=True)`); for
            pooled features, which have no negative values, the ReLU does nothing.
        num_images: int, images of the data; `tfssl.pretrain` fills it in.
            `evaluate` speaks of these images only, see `Method.test_step`.
        num_clusters: int from 1 to `num_images`: 10,000 on ImageNet. Many more than
            classes; with few clusters it fails (100 or more on CIFAR-10).
        pca_components: int >= 1, of the whitened features; fewer where features
            are narrower or images fewer.
        kmeans_iterations: int >= 1.
        kmeans_init: `"random"` (random images) or `"k-means++"`.
        reassign_epochs: int >= 1, epochs between two clusterings.
        seed: int, of k-means, the classifier and the sampling.
        name: optional name.

    Views: one, float32.

    Metrics: `cluster_accuracy`, how often the predicted cluster is the assigned one.

    Reference: facebookresearch/deepcluster, main.py and clustering.py. Differences:
    images are truly drawn uniformly over clusters (there, ids of images are read as
    places in a list sorted by cluster); cluster numbers are those of k-means, also
    where clusters are empty; one optimizer trains body and classifier, whose slots
    are set to zero with it (for the paper's momentum of 0 there:
    `exclude_from_momentum=("classifier_kernel", "classifier_bias")`).

    Raises:
        ValueError: if there are more clusters than images, or an argument is out of
            range.
    """

    default_recipe = recipes.DEEPCLUSTER
    num_views = 1
    logged = ("loss", "cluster_accuracy")

    def __init__(
        self,
        encoder,
        *,
        num_images,
        num_clusters=10_000,
        pca_components=256,
        kmeans_iterations=20,
        kmeans_init="random",
        reassign_epochs=1,
        seed=0,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            num_images=num_images,
            num_clusters=num_clusters,
            pca_components=pca_components,
            kmeans_iterations=kmeans_iterations,
            kmeans_init=kmeans_init,
            reassign_epochs=reassign_epochs,
            seed=seed,
        )
        self.assignments = memory.Assignments(num_images)
        self.classifier_kernel = self.add_weight(
            name="classifier_kernel",
            shape=(self.feature_dim, num_clusters),
            initializer=lambda shape, dtype=None: self._fresh_kernel(0),
            dtype="float32",
            autocast=False,
        )
        self.classifier_bias = self.add_weight(
            name="classifier_bias",
            shape=(num_clusters,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "num_images", "num_clusters", "pca_components")
        checks.whole(given, "kmeans_iterations", "reassign_epochs")
        if given["num_clusters"] > given["num_images"]:
            raise ValueError(
                f"num_clusters={given['num_clusters']} received for "
                f"{given['num_images']} images, expected at most one cluster per image "
                "(and better ten images per cluster)."
            )

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (view,) = self.views(batch)
        features = tf.cast(self.encoder(view, training=training), tf.float32)
        logits = tf.matmul(tf.nn.relu(features), self.classifier_kernel.value)
        logits += self.classifier_bias.value
        target = self.assignments.of(batch["index"])[0]
        losses = clustering.cluster_cross_entropy(logits, target)
        hits = tf.equal(tf.argmax(logits, axis=1), target)
        return {"loss": losses, "cluster_accuracy": tf.cast(hits, tf.float32)}

    # Between epochs. ---------------------------------------------------------

    def before_epoch(self, epoch, images):
        """Clusters the features of all images, every `reassign_epochs`.

        It happens at the first step of an epoch only, from what a checkpoint of that
        step holds: a run that is resumed there clusters again, with the same result,
        and one that is resumed later does not.
        """
        if epoch % self.reassign_epochs:
            return
        reclustering.renew(
            self.assignments,
            lambda: [self.reassign(*images.features(self.pca))],
            epoch=epoch,
            workers=images.workers,
        )

    def epoch_numbers(self):
        return self.assignments.named_numbers()

    def ready_steps(self):
        return reclustering.ready_steps(
            self, "reassign(rows, index) as its docstring says"
        )

    def pca(self, moments):
        """The reduction that k-means sees, of the features' `kmeans.Moments`."""
        components = min(self.pca_components, self.feature_dim, moments.count)
        return kmeans.pca(moments, components=components, whiten=True)

    def reassign(self, rows, index=None):
        """Clusters the images and starts the classifier anew.

        Args:
            rows: float `(n, dim)`, features of images, reduced by `pca`; normalised
                here.
            index: int `(n,)`, which images they are; None for all, in order. The
                others (unreadable files) get no cluster.

        Returns:
            `kmeans.Clustering` of the rows.

        Raises:
            ValueError: for features with NaN, or fewer images than clusters.
        """
        found = kmeans.fit(
            kmeans.unit_norm(rows),
            num_clusters=self.num_clusters,
            iterations=self.kmeans_iterations,
            init=self.kmeans_init,
            # Another start at every clustering, the same one after a resume.
            seed=self.seed + int(self.step.numpy()),
        )
        clusters = np.full((1, self.num_images), -1, np.int64)
        places = slice(None) if index is None else np.asarray(index)
        clusters[0, places] = found.assignments
        self.assignments.clusters.assign(clusters)
        self.restart_classifier()
        return found

    def restart_classifier(self):
        """Draws the classifier anew and clears its optimizer slots."""
        self.classifier_kernel.assign(self._fresh_kernel(int(self.step.numpy())))
        self.classifier_bias.assign(tf.zeros_like(self.classifier_bias.value))
        if self.optimizer is not None and self.optimizer.built:
            optimizers_lib.slots.reset(
                self.optimizer, [self.classifier_kernel, self.classifier_bias]
            )

    def sampling(self, epoch, count):
        """Images of an epoch, drawn uniformly over the clusters.

        Args:
            epoch: int; every epoch draws others.
            count: int, how many.

        Returns:
            int64 `(count,)`. Each non-empty cluster gives `count // clusters + 1`
            images, without repetition if it has as many; all are shuffled and cut to
            `count`.

        Raises:
            ValueError: before the first clustering.
        """
        clusters = self.assignments.clusters.numpy()[0]
        rng = np.random.default_rng([self.seed, epoch])
        order = np.argsort(clusters, kind="stable")
        order = order[np.searchsorted(clusters[order], 0) :]  # Without the unknown.
        if not len(order):
            raise ValueError(
                "No image has a cluster yet; call reassign before the first epoch."
            )
        first = np.flatnonzero(np.diff(clusters[order], prepend=-1))
        members = np.split(order, first[1:])
        quota = count // len(members) + 1
        drawn = [rng.choice(m, quota, replace=len(m) < quota) for m in members]
        return rng.permutation(np.concatenate(drawn))[:count]

    def _fresh_kernel(self, step):
        shape = (self.feature_dim, self.num_clusters)
        return 0.01 * tf.random.stateless_normal(shape, (self.seed, step))

    # What it says of itself. -------------------------------------------------

    def chance_loss(self, global_batch):
        """`ln(num_clusters)`: a uniform choice."""
        return math.log(self.num_clusters)

    def check_run(self, global_batch, source):
        if not source.random_access:
            raise ValueError(
                f"{source.name} is read in sequence, but DeepCluster draws images by "
                "their cluster; use a folder, arrays or TFRecord files with an index."
            )

    def notes(self, global_batch, num_images):
        each = num_images / self.num_clusters
        return [f"{self.num_clusters:,} clusters, {each:.1f} images in the mean"]

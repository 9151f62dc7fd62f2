"""DeepCluster-v2, https://arxiv.org/abs/2006.09882 (Caron et al., 2020, appendix).

DeepCluster in the form of SwAV: several views per image, a projection head, a cosine
softmax. What is clustered are the embeddings of the epoch before, so no pass over the
images is spent on it; the centroids are the classifier.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks, kmeans, memory, replicas
from tfssl.data.views import recipes
from tfssl.losses import clustering, unit_norm
from tfssl.methods import bank_contrast, base, multicrop, reclustering
from tfssl.models import heads

_ASSIGN = (0, 1)  # The views whose embeddings are clustered.


@keras.saving.register_keras_serializable(package="tfssl")
class DeepClusterV2(base.Method):
    """DeepCluster-v2: classify views into clusters of last epoch's embeddings.

    `before_epoch`, which `tfssl.pretrain` calls, fills the banks before the first epoch
    (`fill_step` over the training views) and clusters them before every epoch
    (`reassign`). By hand it is `method.fill(iter(dataset), steps)` and then
    `method.reassign()`; `fit` by itself does neither, and refuses to train without
    clusters.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`; for views of several
            sizes one that takes them all, `input_shape=(None, None, channels)`.
        num_images: int, images of the data; `tfssl.pretrain` fills it in.
            `evaluate` speaks of these images only, see `Method.test_step`.
        num_clusters: int, or a tuple with one for each of several clusterings; the
            paper has three of 3000. Clustering `i` is of the embeddings of view
            `i % 2`.
        temperature: float > 0.
        kmeans_iterations: int >= 1, of spherical k-means.
        reassign_epochs: int >= 1, epochs between two clusterings.
        projection_hidden: int, width of the hidden layer.
        projection_dim: int, width of the embedding.
        norm_statistics: of the head's batch norm, `"global"` or `"local"`.
        norm_replica_groups: int >= 1, into how many groups `"global"` divides the
            replicas, see `norms.BatchNorm`; the encoder has its own setting.
        seed: int, of k-means.
        max_bank_gib: float > 0, memory that both banks may take on every device, in
            GiB.
        name: optional name.

    Views: two or more, float32. The default recipe is SwAV's, two of 224 and six of
    96 pixels.

    Metrics: `cluster_accuracy`, how often the nearest centroid is the assigned one.

    Reference: facebookresearch/swav, main_deepclusterv2.py. Differences: a bank holds
    a row for every image instead of those of the last epoch, so images that an epoch
    left out keep the cluster of their last embedding instead of none; with several
    replicas there is one bank, equal on all; k-means starts at random images of all,
    not of the first process; biases of the head start at zero.

    Raises:
        ValueError: for banks above `max_bank_gib`, if there are more clusters than
            images, or an argument is out of range.
    """

    default_recipe = recipes.SWAV
    more_views = True
    logged = ("loss", "cluster_accuracy")

    def __init__(
        self,
        encoder,
        *,
        num_images,
        num_clusters=(3000, 3000, 3000),
        temperature=0.1,
        kmeans_iterations=10,
        reassign_epochs=1,
        projection_hidden=2048,
        projection_dim=128,
        norm_statistics="global",
        norm_replica_groups=1,
        seed=0,
        max_bank_gib=bank_contrast.MAX_GIB,
        name=None,
    ):
        if isinstance(num_clusters, int):
            num_clusters = (num_clusters,)
        super().__init__(
            encoder,
            name=name,
            num_images=num_images,
            num_clusters=tuple(num_clusters),
            temperature=temperature,
            kmeans_iterations=kmeans_iterations,
            reassign_epochs=reassign_epochs,
            projection_hidden=projection_hidden,
            projection_dim=projection_dim,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
            seed=seed,
            max_bank_gib=max_bank_gib,
        )
        self.projector = heads.mlp(
            self.feature_dim,
            (projection_hidden, projection_dim),
            hidden_bias=True,
            kernel_initializer=heads.UNIFORM_FAN_IN,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
            name="projector",
        )
        self.banks = [
            memory.MemoryBank(num_images, projection_dim, name=f"bank_{i}")
            for i in _ASSIGN
        ]
        self.assignments = memory.Assignments(num_images, len(self.num_clusters))
        self.prototypes = [
            self.add_weight(
                name=f"prototypes_{i}",
                shape=(count, projection_dim),
                initializer="zeros",
                dtype="float32",
                autocast=False,
                trainable=False,
                aggregation="none",
            )
            for i, count in enumerate(self.num_clusters)
        ]

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "num_images", "kmeans_iterations", "reassign_epochs")
        checks.whole(given, "projection_hidden", "projection_dim")
        checks.positive(given, "temperature", "max_bank_gib")
        bank_contrast.check_memory(given, banks=len(_ASSIGN))
        reclustering.check_counts(given)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        self._remember(batch, values["embeddings"])

    def fill_step(self, batch):
        """Stores the embeddings of a batch, as a training step would see them."""
        self._remember(batch, self._embeddings(self.views(batch)[:2], training=True))

    def image_losses(self, batch, training):
        views = self.views(batch)
        embeddings = self._embeddings(views, training)
        targets = self.assignments.of(batch["index"])  # (clusterings, batch)
        z = tf.concat(embeddings, axis=0)  # (views * batch, projection_dim)
        losses = hits = 0.0
        for number, prototypes in enumerate(self.prototypes):
            scores = tf.matmul(z, prototypes.value, transpose_b=True)
            every = tf.tile(targets[number], [len(views)])
            loss = clustering.cluster_cross_entropy(
                scores, every, temperature=self.temperature
            )
            hit = tf.cast(tf.equal(tf.argmax(scores, axis=1), every), tf.float32)
            losses += _mean_of_views(loss, len(views)) / len(self.prototypes)
            hits += _mean_of_views(hit, len(views)) / len(self.prototypes)
        return {
            "loss": losses,
            "cluster_accuracy": hits,
            "embeddings": embeddings[: len(_ASSIGN)],
        }

    def _embeddings(self, views, training):
        """Unit-norm embeddings, view by view."""
        features = multicrop.encode(self.encoder, views, training)
        z = unit_norm.unit_rows(self.projector(features, training=training))
        return tf.split(z, len(views))

    def _remember(self, batch, embeddings):
        index, _ = replicas.gather_rows(batch["index"])
        for bank, z in zip(self.banks, embeddings):
            bank.write(index, replicas.gather_rows(z)[0])

    # Between epochs. ---------------------------------------------------------

    def before_epoch(self, epoch, images):
        """Fills the banks before the first epoch; clusters every `reassign_epochs`."""
        if epoch % self.reassign_epochs:
            return
        if epoch == 0:
            self.fill(images.views(), images.steps)
        reclustering.renew(
            self.assignments,
            self.reassign,
            epoch=epoch,
            workers=images.workers,
            centroids=self.prototypes,
        )

    def ready_steps(self):
        return reclustering.ready_steps(
            self, "fill(iterator, steps) before the first epoch and reassign()"
        )

    def epoch_numbers(self):
        return self.assignments.named_numbers()

    def reassign(self):
        """Clusters the banks; the centroids become the prototypes.

        Returns:
            List of `kmeans.Clustering`, one per clustering, of the images that have
            an embedding.

        Raises:
            ValueError: for embeddings with NaN, or fewer of them than clusters.
        """
        banks = [bank.rows.numpy() for bank in self.banks]
        known = np.flatnonzero(banks[0].any(axis=1))
        if len(known) < max(self.num_clusters):
            raise ValueError(
                f"num_clusters={self.num_clusters} received, but only {len(known)} "
                "images have an embedding; fill the banks first (fill_step over the "
                "training views), or use fewer clusters."
            )
        found = [
            kmeans.fit(
                banks[i % len(banks)][known],
                num_clusters=count,
                iterations=self.kmeans_iterations,
                init="random",
                spherical=True,
                empty="keep",
                seed=self.seed + int(self.step.numpy()) + i,
            )
            for i, count in enumerate(self.num_clusters)
        ]
        clusters = np.full((len(found), self.num_images), -1, np.int64)
        clusters[:, known] = [one.assignments for one in found]
        self.assignments.clusters.assign(clusters)
        for prototypes, one in zip(self.prototypes, found):
            prototypes.assign(one.centroids)
        return found

    # What it says of itself. -------------------------------------------------

    @property
    def head(self):
        """The projector, without the prototypes."""
        return self.projector

    def chance_loss(self, global_batch):
        """A uniform choice, the mean of `ln(clusters)`."""
        return sum(map(math.log, self.num_clusters)) / len(self.num_clusters)

    def check_run(self, global_batch, source):
        filling = source.num_images // global_batch * global_batch
        if filling < max(self.num_clusters):
            raise ValueError(
                f"num_clusters={self.num_clusters} received, but full batches of "
                f"{global_batch} hold {filling} of {source.num_images} images, which "
                "are all that the first epoch clusters; use fewer clusters or a "
                "smaller batch."
            )

    def notes(self, global_batch, num_images):
        each = " + ".join(f"{count:,}" for count in self.num_clusters)
        return [
            bank_contrast.memory_note(self, len(_ASSIGN)),
            f"{each} clusters of {num_images:,} images",
        ]


def _mean_of_views(values, count):
    """`(views * batch,)` -> `(batch,)`."""
    return tf.reduce_mean(tf.reshape(values, [count, -1]), axis=0)

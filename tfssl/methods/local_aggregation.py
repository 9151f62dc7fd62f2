"""Local aggregation, https://arxiv.org/abs/1903.12355 (Zhuang, Zhai & Yamins, 2019).

Of the memories that are nearest to an image those of its own clusters shall come
nearer, and the others move away. It begins as instance discrimination (`npid`).
"""

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks, kmeans, memory, replicas
from tfssl.losses import neighbours
from tfssl.methods import bank_contrast, one_view_bank, reclustering


@keras.saving.register_keras_serializable(package="tfssl")
class LocalAggregation(one_view_bank.OneViewBank):
    """Local aggregation: draw near the near images of one's own clusters.

    The background neighbours B of an embedding are the memories that are most similar
    to it; its close neighbours C are the images that share a cluster with its own, in
    one clustering of the bank or another. The loss is `-log(P(C and B) / P(B))`, `P` a
    softmax over the bank.

    `before_epoch`, which `tfssl.pretrain` calls, clusters the bank (`reassign`); `fit`
    by itself does not, and refuses to train without clusters where the warm-up ends.
    By hand it is `method.reassign()` before every epoch from there on, and without
    warm-up `method.fill(iter(dataset), steps)` before the first.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`.
        num_images: int, images of the data; `tfssl.pretrain` fills it in.
            `evaluate` speaks of these images only, see `Method.test_step`.
        num_clusters: int, or a tuple with one for each of several clusterings; the
            paper has ten of 30,000 on ImageNet.
        background: int >= 1, how many neighbours B has: 4096. On small data fewer, a
            tenth of the images or less; more than there are is all.
        temperature: float > 0.
        bank_momentum: float in [0, 1], the share of the old memory in the new one.
        warmup_epochs: int >= 0, epochs of instance discrimination at the beginning: 10.
            With 0 the bank is filled before the first epoch (`fill_step`).
        steps_per_epoch: int, or None if `warmup_epochs` is 0; `tfssl.pretrain` fills it
            in.
        negatives: int >= 1, of instance discrimination, as in `NPID`.
        loss: `"nce"` or `"softmax"`, of instance discrimination.
        kmeans_iterations: int >= 1.
        reassign_epochs: int >= 1, epochs between two clusterings.
        projection_dim: int >= 1, width of the embedding.
        seed: int, of k-means, the negatives and the bank's first directions.
        max_bank_gib: float > 0, memory that the bank may take on every device, in GiB.
        name: optional name.

    Views: one, float32. The default recipe is `recipes.NPID`.

    Metrics: `contrastive_accuracy`, how often the own memory is the nearest (in the
    warm-up: nearer than the negatives).

    Reference: neuroailab/LocalAggregation. Differences: the bank is clustered between
    epochs, there all the time, in a process beside the training; the own memory is
    always one of the neighbours, so that none is without close ones, where the code
    adds 1e-7 to the quotient; biases of the head start at zero.

    Raises:
        ValueError: if there are more clusters than images, for a bank above
            `max_bank_gib`, or an argument out of range.
    """

    def __init__(
        self,
        encoder,
        *,
        num_images,
        num_clusters=(30_000,) * 10,
        background=4096,
        temperature=0.07,
        bank_momentum=0.5,
        warmup_epochs=10,
        steps_per_epoch=None,
        negatives=4096,
        loss="nce",
        kmeans_iterations=20,
        reassign_epochs=1,
        projection_dim=128,
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
            background=background,
            temperature=temperature,
            bank_momentum=bank_momentum,
            warmup_epochs=warmup_epochs,
            steps_per_epoch=steps_per_epoch,
            negatives=negatives,
            loss=loss,
            kmeans_iterations=kmeans_iterations,
            reassign_epochs=reassign_epochs,
            projection_dim=projection_dim,
            seed=seed,
            max_bank_gib=max_bank_gib,
        )
        self.assignments = memory.Assignments(num_images, len(self.num_clusters))

    @classmethod
    def check_settings(cls, given):
        bank_contrast.check_settings(given)
        checks.whole(given, "background", "kmeans_iterations", "reassign_epochs")
        checks.whole(given, "warmup_epochs", least=0)
        checks.whole(given, "steps_per_epoch", optional=not given["warmup_epochs"])
        reclustering.check_counts(given)

    def fill_step(self, batch):
        """Stores the embeddings of a batch, as a training step would see them."""
        z, _ = self.embedded(batch, training=True)
        index, _ = replicas.gather_rows(batch["index"])
        self.contrast.bank.update(index, replicas.gather_rows(z)[0], momentum=0.0)

    def image_losses(self, batch, training):
        z, found = self.embedded(batch, training)
        bank, index = self.contrast.bank.contents(), batch["index"]
        clusters = tf.identity(self.assignments.clusters.value)
        # Neither of them meets another replica.
        losses, hits = tf.cond(
            self.step.value < self._warmup_steps,
            lambda: (found.losses[0], found.hits[0]),
            lambda: self._aggregate(z, bank, index, clusters),
        )
        return {
            "loss": losses,
            "contrastive_accuracy": hits,
            "embedding": z,
            "found": found,
        }

    @property
    def _warmup_steps(self):
        return self.warmup_epochs * (self.steps_per_epoch or 0)

    def _aggregate(self, z, bank, index, clusters):
        return neighbours.local_aggregation(
            z,
            bank,
            index,
            clusters,
            background=self.background,
            temperature=self.temperature,
        )

    # Between epochs. ---------------------------------------------------------

    def before_epoch(self, epoch, images):
        """Clusters the bank, every `reassign_epochs` from the end of the warm-up on."""
        since = epoch - self.warmup_epochs
        if since < 0 or (since % self.reassign_epochs and not self.is_behind(epoch)):
            return
        if epoch == 0:
            self.fill(images.views(), images.steps)
        reclustering.renew(
            self.assignments, self.reassign, epoch=epoch, workers=images.workers
        )

    def is_behind(self, epoch):
        clustered = reclustering.has_clusters(self.assignments)
        return epoch >= self.warmup_epochs and not clustered

    def ready_steps(self):
        return reclustering.ready_steps(self, "reassign()", before=self._warmup_steps)

    def epoch_numbers(self):
        return self.assignments.named_numbers()

    def reassign(self):
        """Clusters the bank.

        Returns:
            List of `kmeans.Clustering`, one per clustering.

        Raises:
            ValueError: for embeddings with NaN.
        """
        rows = self.contrast.bank.rows.numpy()
        found = [
            kmeans.fit(
                rows,
                num_clusters=count,
                iterations=self.kmeans_iterations,
                init="random",
                # Another start for each; the same ones after a resume.
                seed=self.seed + int(self.step.numpy()) + number,
            )
            for number, count in enumerate(self.num_clusters)
        ]
        self.assignments.clusters.assign(np.stack([one.assignments for one in found]))
        return found

    # What it says of itself. -------------------------------------------------

    def notes(self, global_batch, num_images):
        each = " + ".join(f"{count:,}" for count in self.num_clusters)
        begins = f"{self.warmup_epochs} epochs of instance discrimination, then "
        return [
            *bank_contrast.notes(self),
            f"{begins if self.warmup_epochs else ''}"
            f"{min(self.background, num_images):,} neighbours, {each} clusters of "
            f"{num_images:,} images",
        ]

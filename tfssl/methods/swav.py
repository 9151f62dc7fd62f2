"""SwAV (Caron et al., 2020), https://arxiv.org/abs/2006.09882.

Images are assigned to trainable prototypes so that all prototypes are used equally;
the assignment of one view is predicted from the other views of the image.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks, memory, replicas
from tfssl.data.views import recipes
from tfssl.losses import clustering, unit_norm
from tfssl.methods import base, batch_checks, multicrop
from tfssl.models import heads

_ASSIGN = (0, 1)  # The views whose assignments are predicted.


@keras.saving.register_keras_serializable(package="tfssl")
class SwAV(base.Method):
    """SwAV: predict a view's assignment to prototypes from another view.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`; for views of several
            sizes one that takes them all, `input_shape=(None, None, channels)`.
        num_prototypes: int >= 1. About ten times the number of classes that one
            expects, and not more than images; 3000 for ImageNet.
        temperature: float > 0, of the predictions.
        epsilon: float > 0, of the assignments. 0.03 may help a loss that stays at
            `ln(num_prototypes)`.
        sinkhorn_iterations: int >= 1.
        queue_size: int >= 0, earlier embeddings of each of the two assigned views
            that take part in the assignment, for batches smaller than
            `num_prototypes`: 3840 at batch 256. It must divide over the replicas. 0
            for none.
        queue_epoch: float >= 0, epoch from which the queue is filled; it counts from
            when it is full. A queue of early embeddings makes training unstable.
        freeze_epochs: float >= 0, how long the prototypes stay as they start. Chosen
            by the authors for stability.
        steps_per_epoch: int, what these epochs mean; `tfssl.pretrain` fills it in. May
            be None where both epochs are 0.
        projection_hidden: int, width of the hidden layer: 2048, 8192 for wide ResNets.
        projection_dim: int, width of the embedding.
        norm_statistics: of the head's batch norm, `"global"` as in the paper, or
            `"local"`.
        norm_replica_groups: int >= 1, into how many groups `"global"` divides the
            replicas, see `norms.BatchNorm`; the encoder has its own setting.
        name: optional name.

    Views: two or more, float32; the first two are the assigned ones. The default
    recipe has two of 224 and six of 96 pixels.

    Metrics: `code_entropy`, mean entropy of an image's assignment in nats (0: hard;
    `ln(num_prototypes)`: it says nothing), and `prototypes_used`, the perplexity of
    the mean prediction of a global batch (1: collapsed to one prototype).

    Reference: facebookresearch/swav, main_swav.py. Differences: the prototypes are
    normalised after the update instead of before the next one, and start normalised;
    with several replicas there is one queue, equal on all, instead of a part on each
    (the same assignments); biases of the head start at zero; while the queue waits
    for its epoch it is filled already, and used from the same step on.

    Raises:
        ValueError: if an argument is out of range, or epochs are given without
            `steps_per_epoch`.
    """

    default_recipe = recipes.SWAV
    more_views = True
    logged = ("loss", "code_entropy", "prototypes_used")

    def __init__(
        self,
        encoder,
        *,
        num_prototypes=3000,
        temperature=0.1,
        epsilon=0.05,
        sinkhorn_iterations=3,
        queue_size=0,
        queue_epoch=15.0,
        freeze_epochs=1.0,
        steps_per_epoch=None,
        projection_hidden=2048,
        projection_dim=128,
        norm_statistics="global",
        norm_replica_groups=1,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            num_prototypes=num_prototypes,
            temperature=temperature,
            epsilon=epsilon,
            sinkhorn_iterations=sinkhorn_iterations,
            queue_size=queue_size,
            queue_epoch=queue_epoch,
            freeze_epochs=freeze_epochs,
            steps_per_epoch=steps_per_epoch,
            projection_hidden=projection_hidden,
            projection_dim=projection_dim,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
        )
        per_epoch = steps_per_epoch or 0
        self.freeze_steps = round(freeze_epochs * per_epoch)
        self.queue_start = round(queue_epoch * per_epoch)
        self.projector = heads.mlp(
            self.feature_dim,
            (projection_hidden, projection_dim),
            hidden_bias=True,
            kernel_initializer=heads.UNIFORM_FAN_IN,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
            name="projector",
        )
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(num_prototypes, projection_dim),
            initializer=_unit_rows,
            dtype="float32",
            autocast=False,
        )
        self.queues = [
            memory.FeatureQueue(queue_size, projection_dim, name=f"queue_{i}")
            for i in _ASSIGN[: 2 if queue_size else 0]
        ]

    @classmethod
    def check_settings(cls, given):
        checks.positive(given, "temperature", "epsilon")
        checks.whole(given, "num_prototypes", "sinkhorn_iterations")
        checks.whole(given, "projection_hidden", "projection_dim")
        checks.whole(given, "queue_size", least=0)
        checks.not_negative(given, "queue_epoch", "freeze_epochs")
        waits = given["freeze_epochs"] or (given["queue_size"] and given["queue_epoch"])
        if waits and not given["steps_per_epoch"]:
            raise ValueError(
                f"freeze_epochs={given['freeze_epochs']:g}, "
                f"queue_epoch={given['queue_epoch']:g} received without "
                "steps_per_epoch; pass steps_per_epoch (images // batch size), or 0 "
                "epochs."
            )

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        self.prototypes.assign(unit_norm.unit_rows(self.prototypes.value))
        for queue, z in zip(self.queues, values["embeddings"]):
            queue.enqueue(replicas.gather_rows(z)[0])

    def image_losses(self, batch, training):
        views = self.views(batch)
        features = multicrop.encode(self.encoder, views, training)
        z = unit_norm.unit_rows(self.projector(features, training=training))
        prototypes = tf.convert_to_tensor(self.prototypes.value)
        frozen = self.step.value < self.freeze_steps
        fixed = tf.stop_gradient(prototypes)
        prototypes = tf.where(frozen, fixed, prototypes)
        # Scores of every view, each (batch, num_prototypes).
        scores = tf.split(tf.matmul(z, prototypes, transpose_b=True), len(views))
        embeddings = tf.split(z, len(views))
        losses = entropies = 0.0
        for i in _ASSIGN:
            codes = self._codes(i, scores[i], fixed)
            others = [scores[v] for v in range(len(views)) if v != i]
            for other in others:
                losses += clustering.swapped_prediction(
                    other, codes, temperature=self.temperature
                ) / (len(others) * len(_ASSIGN))
            entropies += _entropy(codes) / len(_ASSIGN)
        return {
            "loss": losses,
            "code_entropy": entropies,
            "prototypes_used": self._used(scores),
            "embeddings": embeddings[: len(_ASSIGN)],
        }

    def _codes(self, view, scores, prototypes):
        """Assignments of an assigned view, found together with its queue."""
        settings = dict(epsilon=self.epsilon, iterations=self.sinkhorn_iterations)
        if not self.queues:
            return clustering.sinkhorn(scores, **settings)
        past = tf.matmul(self.queues[view].local_rows(), prototypes, transpose_b=True)
        batch_size = tf.shape(scores)[0]
        together = tf.concat([past, tf.stop_gradient(scores)], axis=0)
        counts = tf.concat(
            [
                tf.fill([tf.shape(past)[0]], self._queue_is_used(scores)),
                tf.fill([batch_size], True),
            ],
            axis=0,
        )
        codes = clustering.sinkhorn(together, mask=counts, **settings)
        return codes[-batch_size:]

    def _queue_is_used(self, scores):
        """Whether, since its epoch, as many embeddings came as it holds."""
        global_batch = tf.cast(tf.shape(scores)[0] * replicas.num_replicas(), tf.int64)
        since = self.step.value - self.queue_start
        return (since >= 0) & (since * global_batch >= self.queue_size)

    def _used(self, scores):
        """Perplexity of the mean prediction over the global batch, a scalar."""
        p = tf.nn.softmax(tf.stop_gradient(scores[0]) / self.temperature, axis=1)
        mean = replicas.mean_over_replicas(tf.reduce_mean(p, axis=0))
        return tf.exp(_entropy(mean))

    @property
    def head(self):
        """The projector, without the prototypes."""
        return self.projector

    def chance_loss(self, global_batch):
        """`ln(num_prototypes)`: predictions that say nothing."""
        return math.log(self.num_prototypes)

    def check_run(self, global_batch, source):
        if self.num_prototypes > source.num_images:
            raise ValueError(
                f"num_prototypes={self.num_prototypes} received for "
                f"{source.num_images} images; each prototype needs images of its own: "
                "use fewer (about ten times the number of classes)."
            )
        if not self.queues:
            why = "shares prototypes among the images of a batch where queue_size=0"
            batch_checks.of_several(self, global_batch, why)
        for queue in self.queues:
            queue.check_batch(global_batch)
            queue.local_size()

    def notes(self, global_batch, num_images):
        lines = [
            f"prototypes frozen for {self.freeze_steps:,} steps "
            f"({self.freeze_epochs:g} epochs)"
        ]
        rows = global_batch + self.queue_size
        if self.queue_size:
            filled = self.queue_start + -(-self.queue_size // global_batch)
            lines.append(
                f"queue of {self.queue_size:,} embeddings, used from step {filled:,}"
            )
        if rows < self.num_prototypes:
            lines.append(
                f"{self.num_prototypes:,} prototypes share {rows:,} images a step, so "
                f"some stay empty: a queue of {self.num_prototypes - global_batch:,} "
                "or fewer prototypes may help"
            )
        return lines


def _entropy(p):
    """Entropy in nats of the distributions in the last axis."""
    return -tf.reduce_sum(tf.math.xlogy(p, p), axis=-1)


def _unit_rows(shape, dtype=None):
    rows = keras.random.uniform(shape, -1.0, 1.0, dtype=dtype)
    return unit_norm.unit_rows(rows)

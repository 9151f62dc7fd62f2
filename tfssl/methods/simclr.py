"""SimCLR (Chen et al., 2020, https://arxiv.org/abs/2002.05709).

Two augmented views of each image -> one encoder -> projection head -> NT-Xent,
with every other view in the global batch as a negative. The encoder is the
product; the head is kept with it and stays out of the export.

Departures from the authors' code (google-research/simclr, tf2/): the loss is the
paper's mean over both anchors, half of what the code minimizes. LARS leaves the
step of adapted variables unchanged by that factor; biases and batch-norm
parameters, which LARS does not adapt, see half the gradient. The online linear
probe of the code is an evaluation here, not part of the loss.

SimCLRv2's pre-training (https://arxiv.org/abs/2006.10029, section 3) is this class with
`projection_layers=3`, MoCo's memory (`queue_size=65_536`) and an encoder with
`selective_kernels`. The authors' code has no memory; by the paper a network whose
weights are a moving average makes further negatives, which are kept. So positives and
the batch's negatives stay those of the trained network, as in SimCLR, and the memory's
embeddings join the denominators of both anchors. Our choices: it embeds both
views, in one batch as the encoder does, and both enter the queue; the order of a step
is MoCo's.
"""

import keras
import tensorflow as tf

from tfssl import checks, ema, memory, replicas
from tfssl.data.views import recipes
from tfssl.losses import contrastive, unit_norm
from tfssl.methods import base, batch_checks
from tfssl.models import heads

_MOMENTUM = 0.999  # SimCLRv2, section 3, after MoCo.


@keras.saving.register_keras_serializable(package="tfssl")
class SimCLR(base.Method):
    """SimCLR: tell which of the batch's views comes from the same image.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`.
        temperature: float > 0. 0.1 is the authors' value for ImageNet; small
            batches and small data want more (0.5 for CIFAR-10 and digits).
        projection_dim: int >= 1, size of the compared embedding (128).
        projection_layers: int >= 1, layers of the head: 2 in SimCLR, 3 in
            SimCLRv2. Hidden layers are `projection_hidden` wide, with batch
            norm and ReLU; the last has batch norm without offset.
        projection_hidden: int or None for the encoder's width, as in the paper.
        norm_statistics: of the head's batch norm, `"global"` (of all replicas, the
            paper's) or `"local"`. The encoder has its own setting.
        block_size: None for the plain loss, or the number of columns of the
            similarity matrix to hold at a time: memory linear in the batch, the
            same value and gradient, more computation.
        queue_size: int >= 0, earlier embeddings that a momentum encoder made and that
            are further negatives of every anchor: 65,536 in SimCLRv2 on ImageNet, 0 for
            SimCLR, without memory. On small data less than there are images, or an
            image meets its own earlier embeddings.
        momentum: float in [0, 1], of that momentum encoder and its head. None is 0.999,
            SimCLRv2's, where there is a queue. Small data want less.
        name: optional name.

    Views: two, any size, float32. The default recipe is `recipes.SIMCLR`.

    Example:
        >>> encoder = tfssl.models.encoder("resnet18", input_shape=(32, 32, 3))
        >>> method = SimCLR(encoder, temperature=0.5)
        >>> method.compile(tfssl.optimizers.LARS(1.0))
        >>> method.fit(tfssl.data.multiview(...), steps_per_epoch=100)
    """

    default_recipe = recipes.SIMCLR
    logged = ("loss", "contrastive_accuracy")

    def __init__(
        self,
        encoder,
        *,
        temperature=0.1,
        projection_dim=128,
        projection_layers=2,
        projection_hidden=None,
        norm_statistics="global",
        block_size=None,
        queue_size=0,
        momentum=None,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            temperature=temperature,
            projection_dim=projection_dim,
            projection_layers=projection_layers,
            projection_hidden=projection_hidden,
            norm_statistics=norm_statistics,
            block_size=block_size,
            queue_size=queue_size,
            momentum=_MOMENTUM if queue_size and momentum is None else momentum,
        )
        hidden = projection_hidden or self.feature_dim
        self.projector = heads.mlp(
            self.feature_dim,
            (hidden,) * (projection_layers - 1) + (projection_dim,),
            last_norm="batch_no_offset",
            norm_statistics=norm_statistics,
            name="projector",
        )
        self.target = self.queue = None
        if queue_size:
            self.target = ema.TargetNetwork(self.encoder, self.projector)
            self.queue = memory.FeatureQueue(queue_size, projection_dim)

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "projection_layers")
        checks.positive(given, "temperature")
        checks.whole(given, "block_size", optional=True)
        checks.whole(given, "queue_size", least=0)
        if given["momentum"] is None:
            return
        ema.check_momentum(given["momentum"], None)
        if not given["queue_size"]:
            raise ValueError(
                f"momentum={given['momentum']} received with queue_size=0, which has "
                "no momentum encoder; give queue_size as well (65536 in SimCLRv2), or "
                "leave momentum out."
            )

    def train_step(self, batch):
        if self.queue is not None:
            self.target.update(self.momentum)
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        if self.queue is not None:
            self._remember(batch)

    def _remember(self, batch):
        z = self.target(_both(self.views(batch)), training=True)
        # View by view, so that the order does not depend on replicas.
        for rows in tf.split(unit_norm.unit_rows(z), 2):
            self.queue.enqueue(replicas.gather_rows(rows)[0])

    def image_losses(self, batch, training):
        z = self.project(_both(self.views(batch)), training=training)
        z_a, z_b = tf.split(z, 2)  # Each (batch, projection_dim).
        both, offset = replicas.gather_rows(tf.concat([z_a, z_b], axis=1))
        global_a, global_b = tf.split(both, 2, axis=1)
        settings = dict(
            temperature=self.temperature,
            global_a=global_a,
            global_b=global_b,
            offset=offset,
            negatives=None if self.queue is None else self.queue.contents(),
        )
        if self.block_size is None:
            losses = contrastive.nt_xent(z_a, z_b, **settings)
        else:
            losses = contrastive.nt_xent_blockwise(
                z_a, z_b, block_size=self.block_size, **settings
            )
        hits = contrastive.match_accuracy(z_a, global_b, offset=offset)
        return {"loss": losses, "contrastive_accuracy": hits}

    def project(self, images, training=False):
        """Images -> the embedding that the loss compares, not normalized."""
        features = self.encoder(images, training=training)
        return self.projector(features, training=training)

    @property
    def head(self):
        """The projector."""
        return self.projector

    def chance_loss(self, global_batch):
        """A uniform choice among other views and the queue: `ln(2N - 1 + queue)`."""
        return float(tf.math.log(2.0 * global_batch - 1.0 + self.queue_size))

    @property
    def chooses(self):
        return True

    def num_negatives(self, global_batch):
        return 2 * global_batch - 2 + self.queue_size

    def check_run(self, global_batch, source):
        if self.queue is not None:
            self.queue.check_batch(global_batch)
        else:
            why = "finds an image among the others of its batch"
            batch_checks.of_several(self, global_batch, why)

    def notes(self, global_batch, num_images):
        return [] if self.queue is None else self.queue.notes(num_images)


def _both(views):
    """Both views as one batch: batch norm sees them together."""
    return tf.concat(views, axis=0)

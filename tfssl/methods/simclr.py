"""SimCLR (Chen et al., 2020, https://arxiv.org/abs/2002.05709).

Two augmented views of each image -> one encoder -> projection head -> NT-Xent,
with every other view in the global batch as a negative. The encoder is the
product; the head is kept with it and stays out of the export.

Departures from the authors' code (google-research/simclr, tf2/): the loss is the
paper's mean over both anchors, half of what the code minimizes. LARS leaves the
step of adapted variables unchanged by that factor; biases and batch-norm
parameters, which LARS does not adapt, see half the gradient. The online linear
probe of the code is an evaluation here, not part of the loss.

SimCLRv2's pre-training (https://arxiv.org/abs/2006.10029) is this class with
`projection_layers=3`, and an encoder with `selective_kernels`.
"""

import keras
import tensorflow as tf

from tfssl import checks, replicas
from tfssl.data.views import recipes
from tfssl.losses import contrastive
from tfssl.methods import base
from tfssl.models import heads


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
        )
        hidden = projection_hidden or self.feature_dim
        self.projector = heads.mlp(
            self.feature_dim,
            (hidden,) * (projection_layers - 1) + (projection_dim,),
            last_norm="batch_no_offset",
            norm_statistics=norm_statistics,
            name="projector",
        )

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "projection_layers")
        checks.positive(given, "temperature")
        checks.whole(given, "block_size", optional=True)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        # One forward pass of both views: batch norm sees them together.
        z = self.project(tf.concat(self.views(batch), axis=0), training=training)
        z_a, z_b = tf.split(z, 2)  # Each (batch, projection_dim).
        both, offset = replicas.gather_rows(tf.concat([z_a, z_b], axis=1))
        global_a, global_b = tf.split(both, 2, axis=1)
        settings = dict(
            temperature=self.temperature,
            global_a=global_a,
            global_b=global_b,
            offset=offset,
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

    def embed(self, images):
        return self.project(images, training=False)

    def chance_loss(self, global_batch):
        """`ln(2N - 1)`: a uniform choice among the other views of `N` images."""
        return float(tf.math.log(2.0 * global_batch - 1.0))

    def num_negatives(self, global_batch):
        return 2 * global_batch - 2

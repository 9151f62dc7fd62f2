"""Instance discrimination (NPID), https://arxiv.org/abs/1805.01978 (Wu et al., 2018).

Every image is a class of its own. A bank holds a memory of each image's embeddings; the
embedding of a view is to be nearest to that of its own image.
"""

import keras
import tensorflow as tf

from tfssl import checks
from tfssl.methods import bank_contrast, one_view_bank


@keras.saving.register_keras_serializable(package="tfssl")
class NPID(one_view_bank.OneViewBank):
    """NPID: tell an image's memory from those of other images.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`.
        num_images: int, images of the data; `tfssl.pretrain` fills it in.
            `evaluate` speaks of these images only, see `Method.test_step`.
        negatives: int >= 0, how many other images a step compares its batch with, drawn
            anew for every step. 0 compares with the whole bank, which wants
            `loss="softmax"`: the paper's setting on CIFAR-10.
        loss: `"nce"`, the paper's, or `"softmax"`, the cross-entropy of choosing the
            own memory, which small data want.
        temperature: float > 0: 0.07, 0.1 on CIFAR-10.
        bank_momentum: float in [0, 1], the share of the old memory in the new one.
        proximal: float >= 0, weight of the squared distance between an embedding and
            the memory of its image. The paper has 30; the authors' code has none.
        projection_dim: int >= 1, width of the embedding.
        seed: int, of the negatives and of the bank's first directions.
        max_bank_gib: float > 0, memory that the bank may take on every device, in GiB.
        name: optional name.

    Views: one, float32. The default recipe is `recipes.NPID`.

    Metrics: `contrastive_accuracy`, how often the own memory is nearer than all others.

    Reference: zhirongw/lemniscate.pytorch. Differences: the negatives are those of a
    step instead of an image, and never of its batch, see `bank_contrast`; memories
    start with length 1; biases of the head start at zero.

    Raises:
        ValueError: for a bank above `max_bank_gib`, or an argument out of range.
    """

    def __init__(
        self,
        encoder,
        *,
        num_images,
        negatives=4096,
        loss="nce",
        temperature=0.07,
        bank_momentum=0.5,
        proximal=0.0,
        projection_dim=128,
        seed=0,
        max_bank_gib=bank_contrast.MAX_GIB,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            num_images=num_images,
            negatives=negatives,
            loss=loss,
            temperature=temperature,
            bank_momentum=bank_momentum,
            proximal=proximal,
            projection_dim=projection_dim,
            seed=seed,
            max_bank_gib=max_bank_gib,
        )

    @classmethod
    def check_settings(cls, given):
        bank_contrast.check_settings(given, least=0)
        checks.not_negative(given, "proximal")

    def image_losses(self, batch, training):
        z, found = self.embedded(batch, training)
        losses = found.losses[0]
        if self.proximal:
            moved = tf.reduce_sum(tf.square(z - found.own), axis=1)
            losses += self.proximal * moved
        return {
            "loss": losses,
            "contrastive_accuracy": found.hits[0],
            "embedding": z,
            "found": found,
        }

    # What it says of itself. -------------------------------------------------

    def chance_loss(self, global_batch):
        """Equal similarities to all: `ln(negatives + 1)`, and more with `"nce"`."""
        if self.proximal:
            return None
        return bank_contrast.chance_loss(self.loss, self.num_negatives(global_batch))

    @property
    def chooses(self):
        return self.loss == "softmax" and not self.proximal

    def num_negatives(self, global_batch):
        return self.negatives or self.num_images - 1

    def notes(self, global_batch, num_images):
        lines = bank_contrast.notes(self)
        if not self.negatives:
            gib = global_batch * num_images * 4 / 2**30
            lines.append(
                f"softmax over all images: {global_batch:,} x {num_images:,} logits, "
                f"{gib:.3g} GiB over all replicas together"
            )
        return lines

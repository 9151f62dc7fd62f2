"""What the methods share that tell an image's memory from those of other images.

Wu et al., 2018, https://arxiv.org/abs/1805.01978 (NPID), and after them CMC and PIRL: a
bank holds an embedding of every image; a new one is to be nearest to that of its own
image. The others are drawn once per step for the whole global batch, from the images
that are not in it: they are gathered once, and every replica has the same. The authors
draw for every image by itself, from all images, so that some draw themselves.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from tfssl import checks, memory, replicas
from tfssl.losses import contrastive, nce, unit_norm

LOSSES = ("nce", "softmax")
# Of ImageNet with 128 numbers a bank takes 0.61 GiB.
MAX_GIB = 4.0
# Below so many images the constant of NCE has not been shown to work.
_SMALL = 50_000


class Draw(NamedTuple):
    """Which images a step compares, equal on all replicas but for `offset`.

    Attributes:
        index: int64 `(global_batch,)`, the images of the global batch.
        offset: int32 scalar, the place in it of this replica's first image.
        others: int64 `(negatives,)`, images outside of it; None for the whole bank.
    """

    index: tf.Tensor
    offset: tf.Tensor
    others: tf.Tensor | None


class Comparison(NamedTuple):
    """What `BankContrast.compare` found, lists with an entry for each query.

    Attributes:
        drawn: the `Draw` that was compared with.
        losses: float32 `(batch,)`, with a gradient for the query.
        hits: float32 `(batch,)` of 0 and 1, whether the own memory came first.
        own: float32 `(batch, dim)`, the memories of this replica's images, before
            their update.
        old: float32 `(global_batch, dim)`, those of all replicas.
        normalizer: float32 scalar, the Z that was used; equal on all replicas.
    """

    drawn: Draw
    losses: list
    hits: list
    own: tf.Tensor
    old: tf.Tensor
    normalizer: tf.Tensor


@keras.saving.register_keras_serializable(package="tfssl")
class BankContrast(keras.layers.Layer):
    """A bank, and the comparison of embeddings with what it holds.

    Args:
        num_images: int >= 1, images of the data.
        dim: int >= 1, width of an embedding.
        loss: `"nce"` (`losses.noise_contrastive`) or `"softmax"` (`losses.info_nce`).
        temperature: float > 0.
        momentum: float in [0, 1], the share of the old memory in the new one.
        seed: int, of the random directions that the bank begins with.
        name: optional name; banks of different names begin differently.

    Attributes:
        of_images: True, as of `memory.MemoryBank`.
        bank: `memory.MemoryBank`.
        normalizer: float32 variable, Z of NCE: 0 until the first step, whose batch
            determines it once and for all, as the authors do: the number of images
            times the mean of `exp(similarity / temperature)`.
    """

    of_images = True

    def __init__(
        self,
        num_images,
        dim,
        *,
        loss="nce",
        temperature=0.07,
        momentum=0.5,
        seed=0,
        name="contrast",
    ):
        super().__init__(name=name)
        self.loss = loss
        self.temperature = temperature
        self.momentum = momentum
        self.bank = memory.MemoryBank(
            num_images, dim, initializer="unit", seed=seed, name=f"{name}_bank"
        )
        self.normalizer = self.add_weight(
            name="normalizer",
            shape=(),
            initializer="zeros",
            trainable=False,
            autocast=False,
            dtype="float32",
            aggregation="none",
        )
        self.built = True

    def compare(self, queries, drawn):
        """Compares embeddings with the memory of their own image and with others.

        Args:
            queries: list of float `(batch, dim)`, several embeddings of each image of
                this replica. Need not be normalized. Z is that of the first.
            drawn: `Draw` of this step; all banks of a method may share it.

        Returns:
            `Comparison`. Nothing is stored yet, see `remember`.
        """
        if drawn.others is None:
            return self._compare_with_all(queries, drawn)
        wanted = tf.concat([drawn.index, drawn.others], axis=0)
        read = self.bank.rows_of(wanted)
        count = tf.shape(drawn.index)[0]
        old, others = read[:count], read[count:]
        own = self._of_this_replica(old, drawn, queries)
        normalizer = self._normalizer(queries[0], own, others)
        return Comparison(
            drawn,
            [self._compared(query, own, others, normalizer) for query in queries],
            [contrastive.positive_first(query, own, others) for query in queries],
            own,
            old,
            normalizer,
        )

    def _compare_with_all(self, queries, drawn):
        """The softmax over the memories of all images."""
        bank = self.bank.contents()
        index = self._of_this_replica(drawn.index, drawn, queries)
        old = tf.gather(bank, drawn.index)
        losses, hits = [], []
        for query in queries:
            similar = tf.matmul(unit_norm.unit_rows(query), bank, transpose_b=True)
            losses.append(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    index, similar / self.temperature
                )
            )
            hits.append(
                tf.cast(tf.equal(tf.argmax(similar, axis=1), index), tf.float32)
            )
        own = self._of_this_replica(old, drawn, queries)
        known = tf.stop_gradient(tf.identity(self.normalizer.value))
        return Comparison(drawn, losses, hits, own, old, known)

    def _of_this_replica(self, values, drawn, queries):
        """Of values of the global batch those of this replica."""
        batch = queries[0].shape[0]
        mine = values[drawn.offset :][: tf.shape(queries[0])[0]]
        return tf.ensure_shape(mine, [batch, *values.shape[1:]])

    def _compared(self, query, own, others, normalizer):
        if self.loss == "softmax":
            return contrastive.info_nce(
                query, own, others, temperature=self.temperature
            )
        return nce.noise_contrastive(
            query,
            own,
            others,
            temperature=self.temperature,
            dataset_size=self.bank.num_images,
            normalizer=normalizer,
        )

    def _normalizer(self, query, own, others):
        known = tf.stop_gradient(tf.identity(self.normalizer.value))
        if self.loss == "softmax":
            return known
        # Those of the loss, so that the graph has them once.
        logits = tf.stop_gradient(
            contrastive.positive_and_negatives(query, own, others, self.temperature)
        )
        mean = replicas.mean_over_replicas(tf.reduce_mean(tf.exp(logits)))
        return tf.where(known > 0, known, self.bank.num_images * mean)

    def remember(self, rows, comparison):
        """Moves the memories of the batch's images, after the loss.

        Args:
            rows: float `(batch, dim)`, embeddings of this replica's images. Need not
                be normalized.
            comparison: `Comparison` of this step, whose Z stays.
        """
        rows, _ = replicas.gather_rows(unit_norm.unit_rows(tf.stop_gradient(rows)))
        self.bank.update(
            comparison.drawn.index, rows, self.momentum, old=comparison.old
        )
        self.normalizer.assign(comparison.normalizer)

    def get_config(self):
        return {
            "num_images": self.bank.num_images,
            "dim": self.bank.dim,
            "loss": self.loss,
            "temperature": self.temperature,
            "momentum": self.momentum,
            "seed": self.bank.seed,
            "name": self.name,
        }


# What a method with banks says of itself, from its settings `num_images`, `negatives`,
# `loss`, `temperature`, `bank_momentum`, `projection_dim`, `seed` and `max_bank_gib`.


def of(method, name="contrast"):
    """A `BankContrast` of a method's settings."""
    return BankContrast(
        method.num_images,
        method.projection_dim,
        loss=method.loss,
        temperature=method.temperature,
        momentum=method.bank_momentum,
        seed=method.seed,
        name=name,
    )


def draw(method, index):
    """The images that a step compares, for all replicas and banks.

    Args:
        method: a `Method` with these settings.
        index: int64 `(batch,)`, the images of this replica.

    Returns:
        `Draw`, whose `negatives` others are none of the global batch, see
        `memory.others`; 0 compares with the whole bank.
    """
    everyones, offset = replicas.gather_rows(index)
    if not method.negatives:
        return Draw(everyones, offset, None)
    others = memory.others(
        everyones,
        num_images=method.num_images,
        count=method.negatives,
        seed=method.seed,
        step=method.step.value,
    )
    return Draw(everyones, offset, others)


def check_settings(given, banks=1, least=1):
    """Raises `ValueError` for settings that cannot work, a dict with all of the above.

    Args:
        given: dict.
        banks: int, how many banks the method has.
        least: int, how few `negatives` may be; with 0 there is the whole bank.
    """
    checks.whole(given, "num_images", "projection_dim")
    checks.whole(given, "negatives", least=least)
    checks.one_of(given, "loss", LOSSES)
    if not given["negatives"] and given["loss"] == "nce":
        raise ValueError(
            "negatives=0 received with loss='nce', but the comparison with the whole "
            "bank is a softmax; choose loss='softmax', or 1 negative or more."
        )
    checks.positive(given, "temperature", "max_bank_gib")
    checks.share(given, "bank_momentum")
    checks.seed(given, "seed")
    check_memory(given, banks)


def check_memory(given, banks=1):
    """Raises `ValueError` for banks above `max_bank_gib`.

    Args:
        given: dict, the settings.
        banks: int, how many banks the method has.
    """
    rows, dim, most = (
        given[name] for name in ("num_images", "projection_dim", "max_bank_gib")
    )
    gib = _gib(rows, dim, banks)
    if gib > most:
        raise ValueError(
            f"max_bank_gib={most:g} received, but {banks} bank(s) of {rows:,} images "
            f"by {dim} numbers take {gib:.3g} GiB on every device; lower "
            f"projection_dim, or raise max_bank_gib to {math.ceil(gib)}."
        )


def check_batch(method, global_batch):
    """Raises `ValueError` if a batch leaves no image to be compared with."""
    if global_batch >= method.num_images:
        raise ValueError(
            f"batch_size={global_batch} received for {method.num_images} images, which "
            "leaves none outside of the batch for the negatives; make the batch "
            f"{method.num_images - 1} or smaller, or give more images."
        )


def memory_note(method, banks=1):
    """A line about the memory of the banks for the start of a run."""
    rows, dim = method.num_images, method.projection_dim
    several = f"{banks} banks" if banks > 1 else "bank"
    return (
        f"{several} of {rows:,} images by {dim} numbers: "
        f"{_gib(rows, dim, banks):.3g} GiB on every device"
    )


def notes(method, banks=1):
    """Lines about the banks for the start of a run, a list."""
    rows = method.num_images
    lines = [memory_note(method, banks)]
    if method.loss == "nce" and rows < _SMALL:
        lines.append(
            f"loss='nce' with {rows:,} images: its constant Z comes from the first "
            f"batch of an untrained encoder, and is unreliable below about {_SMALL:,} "
            "images; loss='softmax' needs none"
        )
    return lines


def chance_loss(loss, negatives):
    """The least loss of one query if all similarities are equal."""
    choice = math.log(negatives + 1)
    if loss == "softmax":
        return choice
    return choice + negatives * math.log1p(1 / negatives)


def _gib(num_images, dim, banks):
    return banks * num_images * dim * 4 / 2**30

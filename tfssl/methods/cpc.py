"""CPC v2 (Hénaff et al., 2019, https://arxiv.org/abs/1905.09272).

An image is a grid of overlapping patches. Each is augmented by itself and encoded by
itself. A context network that sees a row and the rows above it predicts embeddings of
rows below, place by place, among those of all places of all images of the batch. The
same from the other three sides, by turning the grid. The encoder, with the mean over
the grid, is the product; context networks and embeddings are left behind.

There is no code by the authors; the pseudo-code of the paper and what others made of it
agree on what is here. Departures: the loss is the mean over directions, offsets and
places, where the paper sums; negatives are the patches of the batch of all replicas.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks, internals, losses, models, replicas
from tfssl.data import patches
from tfssl.data.views import patch_augmentation, recipes
from tfssl.methods import base, batch_checks
from tfssl.models import context, norms

_DIRECTIONS = 4


@keras.saving.register_keras_serializable(package="tfssl")
class CPC(base.Method):
    """CPC v2: predict the patches below, from above, and so from every side.

    Args:
        encoder: a `models.PatchEncoder` for images of a known size. Layer norm keeps
            patches from telling each other apart by statistics of the batch.
        offsets: ints from 1, how many rows below its own each place predicts, by a
            matrix for each. None is every row of the grid that shares no pixel with the
            place's own: from `patch / stride` (rounded up) to the last. The pseudo-code
            predicts the first of them only, (3,) on its grid of 6 x 6.
        embedding_dim: int >= 1, of what is predicted.
        embedding_scale: float > 0, factor on predictions, for small logits at first.
        context_blocks: int >= 1, blocks of each context network, and how many rows
            above its own a place knows of.
        context_hidden: int >= 1, filters inside of a block.
        share_context: whether one network, with one embedding of targets, serves all
            four directions. False: each has its own.
        augmentation: None for all of `data.views.patch_augmentation`, or a dict of
            changes to its numbers, as `{"color_drop": 0.0}`. In training only.
        block_size: None for the plain loss, or how many targets to compare with at a
            time: memory of the logits linear in the batch, same value and gradient.
        seed: int >= 0, of the augmentation; `tfssl.pretrain` fills in the run's.
        name: optional name.

    Views: one, float32 in [0, 1], not normalized by mean and deviation, whose colours
    the augmentation would mistake. The default recipe is `recipes.CPC_V2`.

    Example:
        >>> encoder = tfssl.models.encoder("patches", input_shape=(32, 32, 3),
        ...     of="resnet18", stem="cifar", patch=8, stride=4)
        >>> method = CPC(encoder)
        >>> method.compile(tfssl.optimizers.build("adamw", learning_rate=4e-4))
    """

    default_recipe = recipes.CPC_V2
    num_views = 1

    def __init__(
        self,
        encoder,
        *,
        offsets=None,
        embedding_dim=64,
        embedding_scale=0.1,
        context_blocks=5,
        context_hidden=256,
        share_context=False,
        augmentation=None,
        block_size=None,
        seed=0,
        name=None,
    ):
        _check_encoder(encoder)
        super().__init__(
            encoder,
            name=name,
            offsets=_offsets(offsets, encoder),
            embedding_dim=embedding_dim,
            embedding_scale=embedding_scale,
            context_blocks=context_blocks,
            context_hidden=context_hidden,
            share_context=share_context,
            augmentation=augmentation,
            block_size=block_size,
            seed=seed,
        )
        self._of_patches = _augmentation(augmentation)
        crop = self._of_patches.crop
        if crop is not None and crop > encoder.patch:
            raise ValueError(
                f"augmentation={augmentation} received for patches of {encoder.patch} "
                "pixels, in which the crop has no room; make it smaller."
            )
        count = 1 if share_context else _DIRECTIONS
        self.contexts = [
            context.pixel_cnn(
                self.feature_dim,
                len(self.offsets) * embedding_dim,
                blocks=context_blocks,
                hidden=context_hidden,
                name=f"context{number}",
            )
            for number in range(count)
        ]
        self.targets = keras.layers.Dense(count * embedding_dim, name="targets")
        self.targets.build((None, self.feature_dim))

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "embedding_dim", "context_blocks", "context_hidden")
        checks.positive(given, "embedding_scale")
        checks.whole(given, "block_size", optional=True)
        checks.seed(given, "seed")
        _augmentation(given["augmentation"])

    @classmethod
    def check_recipe(cls, recipe):
        super().check_recipe(recipe)
        if recipe[0].mean is not None:
            raise ValueError(
                f"mean={recipe[0].mean} received, but CPC changes the colours of "
                "patches, which are to be in [0, 1]; leave mean and std out."
            )

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        cells = self.encoder.cut(images)
        if training:
            cells = self._augmented(cells, batch["position"])
        grid = self.encoder.encode(cells, training)
        targets, first = replicas.gather_rows(tf.cast(self.targets(grid), tf.float32))
        found = [
            self._losses_from(side, grid, targets, first) for side in range(_DIRECTIONS)
        ]
        return {"loss": tf.add_n(found) / len(found)}

    def _augmented(self, cells, position):
        """Patches as training sees them, by hashes of their places in the stream."""
        rows, columns, *shape = cells.shape[1:]
        number = tf.range(rows * columns, dtype=tf.int64)
        keys = tf.cast(position, tf.int64)[:, tf.newaxis] * (rows * columns) + number
        settings = self._of_patches
        numbers = patch_augmentation.draw(
            settings, seed=self.seed, keys=tf.reshape(keys, [-1]), channels=shape[-1]
        )
        flat = patch_augmentation.augment(
            tf.reshape(cells, [-1, *shape]), numbers, settings
        )
        return tf.reshape(flat, [-1, rows, columns, *flat.shape[1:]])

    def predictions(self, grid, side):
        """What places predict of rows below, with one side of the grid on top.

        Args:
            grid: features of patches `(batch, rows, columns, dim)`.
            side: int from 0 to 3, by how many quarters `context.turned` turns it.

        Returns:
            List of float32 `(batch, rows, columns, embedding_dim)` of the turned grid,
            for every offset. The last rows predict what is not there.
        """
        network = self.contexts[side % len(self.contexts)]
        found = tf.cast(network(context.turned(grid, side)), tf.float32)
        return tf.split(self.embedding_scale * found, len(self.offsets), axis=-1)

    def _losses_from(self, side, grid, targets, first):
        """The mean loss of every image `(batch,)` with one side of the grid on top."""
        parts = tf.split(targets, len(self.contexts), axis=-1)
        every = context.turned(parts[side % len(parts)], side)
        rows, columns = every.shape[1:3]
        flat = tf.reshape(every, [-1, self.embedding_dim])
        image = first + tf.range(tf.shape(grid)[0])
        found = []
        for offset, predicted in zip(self.offsets, self.predictions(grid, side)):
            # Of the place so many rows below; the last rows have none.
            place = tf.range(offset * columns, rows * columns)
            positive = image[:, tf.newaxis] * (rows * columns) + place
            each = losses.predictive_coding(
                tf.reshape(predicted[:, : rows - offset], [-1, self.embedding_dim]),
                flat,
                tf.reshape(positive, [-1]),
                block_size=self.block_size,
            )
            found.append(tf.reduce_mean(tf.reshape(each, tf.shape(positive)), axis=1))
        return tf.add_n(found) / len(found)

    def chance_loss(self, global_batch):
        """A uniform choice among all patches of the batch."""
        return math.log(global_batch * self._places())

    @property
    def chooses(self):
        return True

    def num_negatives(self, global_batch):
        return global_batch * self._places() - 1

    def _places(self):
        return math.prod(self.encoder.grid_shape)

    def check_run(self, global_batch, source):
        why = "takes negatives from other images too"
        batch_checks.of_several(self, global_batch, why)

    def notes(self, global_batch, num_images):
        rows, columns = self.encoder.grid_shape
        lines = [
            f"patches: {rows} x {columns} of {self.encoder.patch} pixels, stride "
            f"{self.encoder.stride}; each place predicts {_listed(self.offsets)} "
            "row(s) below its own, from four sides"
        ]
        apart = patches.first_apart(self.encoder.patch, self.encoder.stride)
        if min(self.offsets) < apart:
            lines.append(
                f"patches less than {apart} rows apart share pixels, by which offset "
                f"{min(self.offsets)} can be solved"
            )
        kinds = (norms.BatchNorm, keras.layers.BatchNormalization)
        if any(isinstance(x, kinds) for x in internals.layers_of(self.encoder)):
            lines.append(
                "the encoder has batch norm, whose statistics tell patches of an image "
                "from others; take one with norm='layer'"
            )
        return [*lines, self._note_on_logits(global_batch)]

    def _note_on_logits(self, global_batch):
        sides = self.encoder.grid_shape
        places = self._places()
        count = self.distribute_strategy.num_replicas_in_sync
        # Two of the directions have the columns for rows.
        predictions = sum(
            2 * (length - offset) * (places // length)
            for length in sides
            for offset in self.offsets
        )
        candidates = global_batch * places
        number = predictions * global_batch // count
        if self.block_size is None:
            mebibytes = 4 * number * candidates / 2**20
            advice = "; block_size bounds them" if mebibytes > 1024 else ""
            return f"logits: {mebibytes:,.0f} MiB on each device{advice}"
        mebibytes = 4 * number * min(self.block_size, candidates) / 2**20
        return (
            f"logits: at most {mebibytes:,.0f} MiB on each device, in blocks of "
            f"{self.block_size} of {candidates} targets"
        )


def _listed(numbers):
    return ", ".join(map(str, numbers))


def _augmentation(changes):
    """The `PatchAugmentation` with these changes to its numbers."""
    changes = {} if changes is None else changes
    if not isinstance(changes, dict):
        raise checks.refused("augmentation", changes, "a dict of changes, or None")
    kind = patch_augmentation.PatchAugmentation
    checks.keywords(kind, changes, "augmentation", "a patch")
    return kind(**changes)


def _check_encoder(encoder):
    if not isinstance(encoder, models.PatchEncoder):
        name = getattr(encoder, "name", encoder)
        raise ValueError(
            f"The encoder {name!r} received, but CPC learns from patches of an image: "
            "take models.encoder('patches', of='resnet18', patch=…, stride=…), as "
            "flags --encoder=patches --encoder_arg=of='resnet18' --encoder_arg=patch=…"
        )
    if encoder.grid_shape is None:
        raise ValueError(
            f"The encoder {encoder.name!r} takes images of any size, but CPC must know "
            "their grid of patches; build it for one size (image_shape)."
        )


def _offsets(given, encoder):
    """The offsets as a tuple, those of the geometry for None."""
    least = min(encoder.grid_shape)
    apart = patches.first_apart(encoder.patch, encoder.stride)
    if given is None:
        if apart >= least:
            raise ValueError(
                f"A grid of {encoder.grid_shape[0]} x {encoder.grid_shape[1]} patches "
                f"of {encoder.patch} pixels with stride {encoder.stride} has no two "
                "rows that share no pixel: nothing to predict; take smaller patches or "
                "a larger stride, or give offsets."
            )
        return tuple(range(apart, least))
    given = (given,) if checks.is_number(given) else tuple(given)
    for offset in given:
        checks.whole({"offsets": offset}, "offsets", most=least - 1)
    if not given or len(set(given)) < len(given):
        raise checks.refused("offsets", given, "different whole numbers, at least one")
    return given

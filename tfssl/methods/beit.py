"""BEiT (Bao et al., 2022, https://arxiv.org/abs/2106.08254): guess hidden patches.

A frozen tokenizer turns an image into a grid of whole numbers, one for each patch of a
vision transformer. Some patches are hidden from the transformer, in blocks, and it
learns to say which numbers stand there. The transformer is the product; the tokenizer
and the layer that says numbers are left behind.

Differences from the authors' code (microsoft/unilm, beit): the tokenizer sees the
transformer's view, resized to what gives it the same grid, where the code resizes a
crop twice, once for each (the filter there is Lanczos's); the last block's norm is that
of the pooled features.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks, frozen, losses, models, pieces, replicas
from tfssl.data import masks
from tfssl.data.views import beit_recipes
from tfssl.losses import masked_tokens
from tfssl.methods import base
from tfssl.models import masked

# The least block of the paper, of its grid of 14 x 14.
_LEAST_SHARE = 16 / 196


@keras.saving.register_keras_serializable(package="tfssl")
class BEiT(base.Method):
    """Masked image modelling: which visual tokens stand where patches are hidden.

    Args:
        encoder: a `models.ViT`. The authors' have `relative="shared"`,
            `positions="none"`, `layer_scale`, `init="beit"` and `pooling="mean"`.
        teacher: `frozen.Frozen` of a `models.Tokenizer`.
        mask_ratio: float in (0, 1), the share of patches to hide, see
            `data.masks.blockwise`. 75 / 196 in the authors' code.
        min_patches: int >= 1, the least area of a block; None for the paper's share of
            the grid, 16 of 196.
        mask_form: `"paper"`, Algorithm 1, or `"released"`, that of the code.
        seed: int >= 0, of the masks; `tfssl.pretrain` fills in the run's.
        name: optional name.

    Views: one, float32. The default recipe is `"beit"`.

    Example:
        >>> encoder = tfssl.models.encoder("vit_tiny_4", input_shape=(32, 32, 3),
        ...     positions="none", relative="shared", layer_scale=0.1, init="beit",
        ...     pooling="mean")
        >>> tokenizer = tfssl.load("runs/tokenizer_cifar10_small")
        >>> teacher = tfssl.methods.Frozen(tokenizer.network, tokenizer.preprocessing)
        >>> method = BEiT(encoder, teacher)
    """

    logged = ("loss", "masked_accuracy")
    num_views = 1
    default_recipe = beit_recipes.BEIT
    pictured = "Images, what is seen of them, what was guessed, the right tokens"
    taught_by = "a tokenizer: the folder of a run of tfssl-train-tokenizer, or its file"

    def __init__(
        self,
        encoder,
        teacher,
        *,
        mask_ratio=0.4,
        min_patches=None,
        mask_form="paper",
        seed=0,
        name=None,
    ):
        _check_encoder(encoder)
        super().__init__(
            encoder,
            name=name or "beit",  # Keras would make b_ei_t of it.
            teacher=teacher,
            mask_ratio=mask_ratio,
            min_patches=min_patches,
            mask_form=mask_form,
            seed=seed,
        )
        self.hidden = masked.HiddenPatches(name="hidden")
        self.hidden.build((None, None, None, self.feature_dim))
        passes = masked.Masked(encoder, self.hidden)
        # A function, not an attribute: Keras would take it for a further network.
        self._masked = lambda: passes
        self.classifier = keras.layers.Dense(
            teacher.network.vocabulary,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="classifier",
        )
        self.classifier.build((None, None, self.feature_dim))

    @classmethod
    def check_settings(cls, given):
        network = getattr(given["teacher"], "network", None)
        if not isinstance(given["teacher"], frozen.Frozen) or not isinstance(
            network, models.Tokenizer
        ):
            raise checks.refused(
                "teacher",
                getattr(network, "name", given["teacher"]),
                "a tokenizer (tfssl-train-tokenizer) in a tfssl.methods.Frozen",
            )
        network.check_use()
        checks.true_share({"mask_ratio": given["mask_ratio"]}, "mask_ratio")
        checks.whole(given, "min_patches", optional=True)
        checks.one_of(given, "mask_form", masks.FORMS)
        checks.seed(given, "seed")

    def check_run(self, global_batch, source):
        grid = self.encoder.get_layer("tokens").grid
        masks.check(*grid, **self._hiding(*grid))

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        tokens = self.tokens(images)
        mask = self.mask(batch["position"], tokens.shape[1:])
        logits = self.guess(images, mask, training)
        tokens, mask = (tf.reshape(x, [-1, logits.shape[1]]) for x in (tokens, mask))
        right = tf.equal(tf.argmax(logits, -1), tokens)
        # Every hidden patch counts alike, however many an image has.
        count = masked_tokens.sum_where(tf.ones_like(logits[..., 0]), mask)
        share = 1.0 / replicas.mean_over_replicas(tf.reduce_mean(count))
        sums = losses.masked_token_cross_entropy(logits, tokens, mask)
        right = masked_tokens.sum_where(tf.cast(right, tf.float32), mask)
        return {"loss": share * sums, "masked_accuracy": share * right}

    def tokens(self, images):
        """What stands at the patches of views: int64 `(batch, rows, columns)`."""
        tokenizer = self.teacher.network
        grid = masked.grid_of(self.encoder, *images.shape[1:3])
        size = tuple(side * tokenizer.downsampling for side in grid)
        prepared = self.teacher.prepared(images, size)
        return tf.cast(tokenizer.tokens(prepared), tf.int64)

    def mask(self, positions, grid):
        """The patches that are hidden at these places of the stream, bool."""
        given = self._hiding(*grid)

        def drawn(positions):
            return masks.blockwise(*grid, positions=positions, seed=self.seed, **given)

        return pieces.compiled_on_gpus(drawn, self.distribute_strategy)(positions)

    def _hiding(self, rows, columns):
        """How much of a grid is hidden, arguments of `masks.blockwise`."""
        least = self.min_patches or max(1, round(rows * columns * _LEAST_SHARE))
        return dict(ratio=self.mask_ratio, min_patches=least, form=self.mask_form)

    def guess(self, images, mask, training=False):
        """Logits of the tokens of all patches, hidden ones among them.

        Args:
            images: views `(batch, height, width, channels)`.
            mask: bool `(batch, rows, columns)`, the patches to hide.
            training: bool.

        Returns:
            float32 `(batch, rows * columns, vocabulary)`.
        """
        found = self._masked()(images, mask, training)
        return tf.cast(self.classifier(found), tf.float32)

    def pictures(self, images):
        """What is seen, what was guessed of the rest, and the tokens that are right.

        Args:
            images: `(n, h, w, channels)`, as the encoder takes them.

        Returns:
            float32 array `(n, 4, h, w, channels)` in [0, 1]: an image; without its
            hidden patches, which are grey; the image of the tokens, those of hidden
            patches guessed; the image of the right tokens.
        """
        tokenizer, size = self.teacher.network, images.shape[1:3]
        tokens = self.tokens(images)
        mask = self.mask(tf.range(len(images)), tokens.shape[1:])
        logits = self.guess(images, mask)
        guessed = tf.reshape(tf.argmax(logits, -1), tokens.shape)
        plain = self.teacher.prepared(images, size)
        patch = self.encoder.settings["patch"]
        hidden = tf.repeat(tf.repeat(mask, patch, axis=1), patch, axis=2)
        seen = tf.where(hidden[..., tf.newaxis], 0.5, plain)
        decoded = [
            tf.image.resize(tokenizer.images(said), size, "nearest")
            for said in (tf.where(mask, guessed, tokens), tokens)
        ]
        return tf.stack([plain, seen, *decoded], axis=1).numpy()

    def chance_loss(self, global_batch):
        """A uniform choice among all codes."""
        return math.log(self.teacher.network.vocabulary)

    def notes(self, global_batch, num_images):
        tokenizer = self.teacher.network
        grid = self.encoder.get_layer("tokens").grid
        sides = " x ".join(str(side * tokenizer.downsampling) for side in grid)
        lines = [
            f"tokenizer {tokenizer.name}: {tokenizer.vocabulary} codes, for "
            f"{grid[0]} x {grid[1]} patches it sees {sides} pixels; masked accuracy by "
            f"chance {1 / tokenizer.vocabulary:.2%}"
        ]
        if tokenizer.perplexity is not None:
            lines.append(
                f"{tokenizer.perplexity:.0f} of its codes are in use (perplexity): who "
                "only knows how common each is has a loss of "
                f"{math.log(tokenizer.perplexity):.2f}"
            )
        return lines


def _check_encoder(encoder):
    if not isinstance(encoder, models.ViT):
        name = getattr(encoder, "name", encoder)
        raise ValueError(
            f"The encoder {name!r} received, but BEiT hides patches from a vision "
            "transformer of tfssl; take one, as --encoder=vit_base_16."
        )
    if encoder.settings["distillation_token"]:
        raise ValueError(
            f"distillation_token=True received of the encoder {encoder.name!r}, but no "
            "teacher of BEiT names classes; leave it out."
        )

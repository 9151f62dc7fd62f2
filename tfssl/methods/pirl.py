"""PIRL (Misra & van der Maaten, 2020), https://arxiv.org/abs/1912.01991.

An image and the same image transformed (cut into shuffled tiles, or turned) are to be
near to one memory of it and far from those of other images. So the representation does
not change by the transform that a pretext task would have it find out.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks
from tfssl.data.views import pretext_recipes
from tfssl.methods import bank_contrast, base, transforms
from tfssl.models import heads

_TRANSFORMS = ("jigsaw", "rotation", "both")


@keras.saving.register_keras_serializable(package="tfssl")
class PIRL(base.Method):
    """PIRL: pretext-invariant representations, by a memory of every image.

    With the memory `m` of an image, its embedding `f(v)` and that of its transform
    `g(v_t)`, the loss is `weight * L(m, g(v_t)) + (1 - weight) * L(m, f(v))`, `L` being
    NCE or the softmax among `negatives` memories of other images.

    `transform="jigsaw"`: the tiles of the second view, in an order that is drawn anew
    for every image out of all orders, pass the encoder each by itself; `g` is a head of
    each tile and a linear layer on all of them side by side. `"rotation"`: the second
    view turned by 0 to 3 quarters, `g` a head as `f`. `"both"`: the picture is turned,
    then cut into tiles and shuffled.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`; for tiles one that takes
            them and images, `input_shape=(None, None, channels)`.
        num_images: int, images of the data; `tfssl.pretrain` fills it in.
            `evaluate` speaks of these images only, see `Method.test_step`.
        transform: `"jigsaw"`, `"rotation"` or `"both"`.
        loss: `"nce"` or `"softmax"`.
        temperature: float > 0; 0.1 for the softmax with two layers in the authors'
            code.
        negatives: int >= 1, memories that each image is compared with, see
            `bank_contrast`.
        weight: float in [0, 1], of the transform's loss, the paper's lambda.
        bank_momentum: float in [0, 1], the share of the old memory in the new one.
        projection_layers: int >= 1, layers of the heads: 1 in the paper, 2 in the
            authors' stronger form. The hidden ones have the encoder's width and ReLU;
            with them a tile's embedding has a ReLU too.
        projection_dim: int, width of an embedding.
        num_tiles: int, tiles of an image; `tfssl.pretrain` fills it in from the recipe.
        max_bank_gib: float > 0, memory that the bank may take on a device.
        seed: int, of the bank, the negatives and the transforms.
        name: optional name.

    Views: two, float32; the second in tiles (`data.Tiles`), but for `"rotation"`. The
    default recipes are `pirl_jigsaw` and `pirl_rotation`.

    Metrics: `image_loss` and `transform_loss`; `contrastive_accuracy`, how often the
    memory of an image is the nearest to its embedding.

    Reference: facebookresearch/vissl (jigsaw only). Differences: negatives are drawn
    once per step for all images and are never the image itself, see `bank_contrast`;
    of rotation there is no code, `g` is as the paper has it, and for `"both"` the
    picture is turned before it is cut; biases of the heads start at zero.

    Raises:
        ValueError: if an argument is out of range, or the bank is too large.
    """

    default_recipe = pretext_recipes.PIRL_JIGSAW
    logged = ("loss", "image_loss", "transform_loss", "contrastive_accuracy")

    def __init__(
        self,
        encoder,
        *,
        num_images,
        transform="jigsaw",
        loss="nce",
        temperature=0.07,
        negatives=32_000,
        weight=0.5,
        bank_momentum=0.5,
        projection_layers=1,
        projection_dim=128,
        num_tiles=9,
        max_bank_gib=bank_contrast.MAX_GIB,
        seed=0,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            num_images=num_images,
            transform=transform,
            loss=loss,
            temperature=temperature,
            negatives=negatives,
            weight=weight,
            bank_momentum=bank_momentum,
            projection_layers=projection_layers,
            projection_dim=projection_dim,
            num_tiles=num_tiles,
            max_bank_gib=max_bank_gib,
            seed=seed,
        )
        self.projector = self._head("projector")
        self.transform_projector = self._head("transform_projector")
        if transform != "rotation":
            self.tiles_projector = heads.mlp(
                num_tiles * projection_dim,
                (projection_dim,),
                kernel_initializer=heads.UNIFORM_FAN_IN,
                name="tiles_projector",
            )
        self.contrast = bank_contrast.of(self)

    def _head(self, name):
        hidden = (self.feature_dim,) * (self.projection_layers - 1)
        return heads.mlp(
            self.feature_dim,
            (*hidden, self.projection_dim),
            hidden_norm=False,
            kernel_initializer=heads.UNIFORM_FAN_IN,
            name=name,
        )

    @classmethod
    def check_settings(cls, given):
        checks.one_of(given, "transform", _TRANSFORMS)
        checks.share(given, "weight")
        checks.whole(given, "projection_layers", "num_tiles")
        bank_contrast.check_settings(given)

    @classmethod
    def check_memory(cls, given):
        bank_contrast.check_memory(given)

    @classmethod
    def recipe_for(cls, transform="jigsaw", **_):
        rotates = transform == "rotation"
        return pretext_recipes.PIRL_ROTATION if rotates else pretext_recipes.PIRL_JIGSAW

    @classmethod
    def tiled_views(cls, transform="jigsaw", **_):
        return () if transform == "rotation" else (1,)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        self.contrast.remember(values["embeddings"], values["found"])

    def image_losses(self, batch, training):
        view, other = self.views(batch)
        # As in the authors' code the transform comes first: batch norm sees it by
        # itself, and NCE's constant is of its scores.
        changed = self._of_transform(other, batch["position"], training)
        z = self.projector(self.encoder(view, training=training), training=training)
        drawn = bank_contrast.draw(self, batch["index"])
        found = self.contrast.compare([changed, z], drawn)
        transform_loss, image_loss = found.losses
        return {
            "loss": self.weight * transform_loss + (1 - self.weight) * image_loss,
            "image_loss": image_loss,
            "transform_loss": transform_loss,
            "contrastive_accuracy": found.hits[1],
            "embeddings": z,
            "found": found,
        }

    def _of_transform(self, view, position, training):
        """The embeddings of the transformed images, `(batch, projection_dim)`."""
        quarters = transforms.choices(
            self.seed, position, transforms.TURNS, purpose="turn"
        )
        if self.transform == "rotation":
            turned = transforms.turned(view, quarters)
            features = self.encoder(turned, training=training)
            return self.transform_projector(features, training=training)
        tiles = transforms.tiles_of(view, self.num_tiles, type(self).__name__)
        if self.transform == "both":
            tiles = transforms.turned_tiles(tiles, quarters)
        order = transforms.orders(
            self.seed, position, self.num_tiles, purpose="order of tiles"
        )
        features = transforms.encode_tiles(
            self.encoder,
            self.transform_projector,
            transforms.reordered(tiles, order),
            training,
        )
        if self.projection_layers > 1:
            features = tf.nn.relu(features)
        return self.tiles_projector(features, training=training)

    # What it says of itself. -------------------------------------------------

    @property
    def head(self):
        """The projector of images."""
        return self.projector

    def chance_loss(self, global_batch):
        """That of equal similarities, which both terms have."""
        return bank_contrast.chance_loss(self.loss, self.negatives)

    @property
    def chooses(self):
        return self.loss == "softmax"

    def num_negatives(self, global_batch):
        return self.negatives

    def check_run(self, global_batch, source):
        bank_contrast.check_batch(self, global_batch)

    def notes(self, global_batch, num_images):
        what = {
            "jigsaw": f"{self.num_tiles} tiles in any of "
            f"{math.factorial(self.num_tiles):,} orders",
            "rotation": "a turn by 0 to 3 quarters",
        }
        both = f"{what['rotation']}, then {what['jigsaw']}"
        line = f"transform: {what.get(self.transform, both)}"
        return [line, *bank_contrast.notes(self)]

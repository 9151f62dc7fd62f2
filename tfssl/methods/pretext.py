"""Pretext tasks: which turn was it, which order of the tiles.

Rotation: Gidaris et al., 2018, https://arxiv.org/abs/1803.07728. Jigsaw: Noroozi and
Favaro, 2016, https://arxiv.org/abs/1603.09246. A network that must know what was done
to an image has features that change with it; PIRL uses the same transforms to make
features that do not.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks
from tfssl.data.views import pretext_recipes
from tfssl.losses import clustering
from tfssl.methods import base, transforms
from tfssl.models import heads

_TASKS = ("rotation", "jigsaw")


@keras.saving.register_keras_serializable(package="tfssl")
class Pretext(base.Method):
    """Predicts what was done to an image: its rotation, or the order of its tiles.

    `task="rotation"`: every image is there in all four positions, and a linear
    classifier on the features tells them apart. `task="jigsaw"`: the tiles of an image,
    in one of `num_permutations` orders, pass the encoder each by itself; their features
    by way of a layer of `tile_dim` with batch norm and ReLU, side by side, go into a
    linear classifier of the orders (a context-free network).

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`; for the jigsaw one that
            takes tiles and whole images, `input_shape=(None, None, channels)`.
        task: `"rotation"` or `"jigsaw"`.
        num_permutations: int >= 2, orders that the jigsaw's are of, chosen to differ in
            as many places as can be, see `transforms.distant_orders`. 100 to 10,000 in
            the papers; more make the task harder.
        num_tiles: int, tiles of an image; `tfssl.pretrain` fills it in from the recipe.
        tile_dim: int >= 1, width of a tile's layer.
        norm_statistics: of that layer's batch norm, `"global"` or `"local"`.
        norm_replica_groups: int >= 1, into how many groups `"global"` divides the
            replicas, see `norms.BatchNorm`; the encoder has its own setting.
        seed: int, of the choice of the orders and of their drawing.
        name: optional name.

    Views: one, float32; of the jigsaw in tiles (`data.Tiles`). The default recipes are
    `rotation` and `jigsaw`.

    Metrics: `task_accuracy`, how often the rotation or the order was found; beside it
    `chance_accuracy`, that of guessing.

    Reference: gidariss/FeatureLearningRotNet, and facebookresearch/vissl
    (jigsaw_resnet, permutations of 3 x 3 tiles). Differences: the orders are drawn from
    (seed, place in the stream); the orders' set is made here, not read from a file;
    the biases start at zero.

    Raises:
        ValueError: for an unknown task, or more orders than the tiles have.
    """

    default_recipe = pretext_recipes.ROTATION
    num_views = 1
    logged = ("loss", "task_accuracy")

    def __init__(
        self,
        encoder,
        *,
        task="rotation",
        num_permutations=1000,
        num_tiles=9,
        tile_dim=1000,
        norm_statistics="global",
        norm_replica_groups=1,
        seed=0,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            task=task,
            num_permutations=num_permutations,
            num_tiles=num_tiles,
            tile_dim=tile_dim,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
            seed=seed,
        )
        width = self.feature_dim
        if task == "jigsaw":
            self.permutations = self.add_weight(
                name="permutations",
                shape=(num_permutations, num_tiles),
                initializer=self._chosen_orders,
                dtype="int32",
                trainable=False,
            )
            self.tile_layer = heads.mlp(
                self.feature_dim,
                (tile_dim,),
                last_norm="batch",
                kernel_initializer=heads.UNIFORM_FAN_IN,
                norm_statistics=norm_statistics,
                norm_replica_groups=norm_replica_groups,
                name="tile_layer",
            )
            width = num_tiles * tile_dim
        self.classifier = heads.mlp(
            width,
            (self.num_classes,),
            kernel_initializer=heads.UNIFORM_FAN_IN,
            name="classifier",
        )

    def _chosen_orders(self, shape, dtype=None):
        return tf.constant(transforms.distant_orders(*shape, self.seed), dtype)

    @property
    def num_classes(self):
        """How many answers there are."""
        return transforms.TURNS if self.task == "rotation" else self.num_permutations

    @classmethod
    def check_settings(cls, given):
        checks.one_of(given, "task", _TASKS)
        checks.whole(given, "num_tiles", "tile_dim")
        checks.whole(given, "num_permutations", least=2)
        count, tiles = given["num_permutations"], given["num_tiles"]
        if given["task"] == "jigsaw" and count > transforms.number_of_orders(tiles):
            raise ValueError(
                f"num_permutations={count} received for {tiles} tiles, of which there "
                f"are {transforms.number_of_orders(tiles):,} orders; use fewer, or a "
                "recipe of a finer grid."
            )

    @classmethod
    def recipe_for(cls, task="rotation", **_):
        return pretext_recipes.JIGSAW if task == "jigsaw" else pretext_recipes.ROTATION

    @classmethod
    def tiled_views(cls, task="rotation", **_):
        return (0,) if task == "jigsaw" else ()

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (view,) = self.views(batch)
        task = self._rotation if self.task == "rotation" else self._jigsaw
        features, target = task(view, batch["position"], training)
        logits = tf.cast(self.classifier(features, training=training), tf.float32)
        losses = clustering.cluster_cross_entropy(logits, target)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=1), target), tf.float32)
        copies = transforms.TURNS if self.task == "rotation" else 1
        losses, hits = (
            tf.reduce_mean(tf.reshape(x, [copies, -1]), axis=0) for x in (losses, hits)
        )
        return {"loss": losses, "task_accuracy": hits}

    def _rotation(self, view, position, training):
        """Features of all four positions of the images, and which one it is."""
        count = tf.shape(position, tf.int64)[0]
        features = self.encoder(transforms.all_turns(view), training=training)
        return features, tf.repeat(tf.range(transforms.TURNS, dtype=tf.int64), count)

    def _jigsaw(self, view, position, training):
        """What is known of the tiles in their new order, and which order it is."""
        tiles = transforms.tiles_of(view, self.num_tiles, type(self).__name__)
        target = transforms.choices(
            self.seed, position, self.num_permutations, purpose="order of tiles"
        )
        order = tf.gather(tf.convert_to_tensor(self.permutations.value), target)
        tiles = transforms.reordered(tiles, order)
        features = transforms.encode_tiles(
            self.encoder, self.tile_layer, tiles, training
        )
        return tf.nn.relu(features), tf.cast(target, tf.int64)

    # What it says of itself. -------------------------------------------------

    def chance_loss(self, global_batch):
        """`ln(classes)`: a uniform choice."""
        return math.log(self.num_classes)

    def epoch_numbers(self):
        return {"chance_accuracy": 1.0 / self.num_classes}

    def notes(self, global_batch, num_images):
        chance = f"chance finds {1 / self.num_classes:.2%}"
        if self.task == "rotation":
            return [f"{transforms.TURNS} positions of every image; {chance}"]
        distance = transforms.mean_distance(np.array(self.permutations))
        return [
            f"{self.num_permutations:,} orders of {self.num_tiles} tiles, two of which "
            f"differ in {distance:.1%} of the places; {chance}"
        ]

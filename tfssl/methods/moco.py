"""MoCo v1, v2 and v3.

* v1, He et al., 2020, https://arxiv.org/abs/1911.05722: a query is told from a
  queue of keys, which a slowly moving key encoder made of earlier images.
* v2, Chen et al., 2020, https://arxiv.org/abs/2003.04297: the same with an MLP
  head, stronger views and a cosine schedule.
* v3, Chen et al., 2021, https://arxiv.org/abs/2104.02057: no queue; the other keys
  of the batch are the negatives, both views are queries, and a predictor follows
  the projector.

The order of a step is that of the authors' code: first the key encoder moves
towards the query encoder of before this step's update, then come losses and
update, then the keys enter the queue.

Departures from that code (facebookresearch/moco, moco-v3): shuffling BN deals the
rows of the key batch to other statistics groups instead of moving images between
devices (see `norms.BatchNorm`), so it also works on one device; the queue takes
batches that do not divide it; biases of the heads start at zero.
"""

import math

import keras
from absl import logging

from tfssl import checks, ema, internals, memory, replicas
from tfssl.data.views import recipes
from tfssl.losses import contrastive, unit_norm
from tfssl.methods import base, batch_checks
from tfssl.models import heads, norms

# What the papers set. None: the argument means nothing in that version.
_DEFAULTS = {
    1: dict(
        temperature=0.07,
        momentum=0.999,
        queue_size=65_536,
        symmetric=False,
        projection_layers=1,
        projection_hidden=None,
        projection_dim=128,
        predictor_last_norm=None,
        shuffle=True,
    ),
    2: dict(
        temperature=0.2,
        momentum=0.999,
        queue_size=65_536,
        symmetric=False,
        projection_layers=2,
        projection_hidden=None,
        projection_dim=128,
        predictor_last_norm=None,
        shuffle=True,
    ),
    3: dict(
        temperature=1.0,
        momentum=0.99,
        queue_size=None,
        symmetric=True,
        projection_layers=2,
        projection_hidden=4096,
        projection_dim=256,
        predictor_last_norm=False,
        shuffle=False,
    ),
}
_RECIPES = {1: recipes.MOCO_V1, 2: recipes.MOCO_V2, 3: recipes.MOCO_V3}


@keras.saving.register_keras_serializable(package="tfssl")
class MoCo(base.Method):
    """MoCo: tell the key of the same image from those of others.

    Arguments that are None take the value of the version's paper.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`.
        version: 1, 2 or 3.
        temperature: float > 0: 0.07, 0.2, 1.0 (v3 with a ViT: 0.2).
        momentum: float in [0, 1], of the key encoder: 0.999, 0.999, 0.99 (v3 for
            1000 epochs: 0.996). Small data want less: 0.99 on CIFAR-10.
        total_steps: int. In v3 the step at which the momentum has risen to 1
            along half a cosine, None for a constant one; `tfssl.pretrain` fills
            it in. v1 and v2 keep their momentum.
        queue_size: int, keys in the queue of v1 and v2: 65,536. On small data
            less (4,096 on CIFAR-10): a queue larger than the data holds each
            image's own old keys as negatives. None in v3.
        symmetric: bool, whether both views are queries. False in v1 and v2, whose
            loss is then the sum of both directions, and both keys enter the queue;
            always True in v3.
        projection_layers: int >= 1, layers of the head: 1, 2, 2 (v3 with a ViT: 3).
        projection_hidden: int, their width: the encoder's in v2, 4096 in v3, also
            for the predictor.
        projection_dim: int, width of the compared embedding: 128, 128, 256.
        predictor_last_norm: bool, whether v3's predictor ends with a batch norm
            without scale and offset, as its projector does: False (v3 with a ViT:
            True). None in v1 and v2, which have no predictor.
        shuffle: bool, whether the key encoder's local or split batch norms take
            shuffled statistics. True in v1 and v2, False in v3, whose encoder
            should have global ones.
        name: optional name.

    Views: two, float32. The default recipe is that of the version.

    The loss is InfoNCE; in v3, as in its code, both directions are added and
    multiplied by `2 * temperature`.

    What v3 with a ViT asks of the encoder is the encoder's own: `models.ViT` with
    `positions="sincos"`, `init="xavier"` and `freeze_patches=True`, a projection of the
    patches that stays as it starts. In batches of thousands gradients of a learned one
    jump now and then, and cost accuracy without a sign in the loss (the paper's section
    4.2); `--watch_gradients` shows such jumps.
    """

    default_recipe = recipes.MOCO_V2
    logged = ("loss", "contrastive_accuracy")

    def __init__(
        self,
        encoder,
        *,
        version=2,
        temperature=None,
        momentum=None,
        total_steps=None,
        queue_size=None,
        symmetric=None,
        projection_layers=None,
        projection_hidden=None,
        projection_dim=None,
        predictor_last_norm=None,
        shuffle=None,
        name=None,
    ):
        papers = _of_paper(
            version,
            temperature=temperature,
            momentum=momentum,
            queue_size=queue_size,
            symmetric=symmetric,
            projection_layers=projection_layers,
            projection_hidden=projection_hidden,
            projection_dim=projection_dim,
            predictor_last_norm=predictor_last_norm,
            shuffle=shuffle,
        )
        super().__init__(
            encoder, name=name, version=version, total_steps=total_steps, **papers
        )
        self.projector = self._head("projector", self.projection_layers)
        self.predictor = self.queue = None
        if version == 3:
            self.predictor = self._head("predictor", 2)
        else:
            self.queue = memory.FeatureQueue(self.queue_size, self.projection_dim)
        self.target = ema.TargetNetwork(self.encoder, self.projector)
        if self.shuffle:
            _warn_of_leaks(encoder, norms.shuffle_statistics(self.target))

    @classmethod
    def check_settings(cls, given):
        defaults = _DEFAULTS[given["version"]]
        checks.like({name: given[name] for name in defaults}, defaults)
        if given["version"] == 3 and given["queue_size"] is not None:
            raise ValueError(
                f"queue_size={given['queue_size']} received with version=3, whose "
                "negatives are the batch; leave it out, or choose version 2."
            )
        if given["version"] == 3 and not given["symmetric"]:
            raise ValueError(
                "symmetric=False received with version=3, which compares both views; "
                "leave it out, or choose version 2."
            )
        if given["version"] != 3 and given["predictor_last_norm"] is not None:
            raise ValueError(
                f"predictor_last_norm={given['predictor_last_norm']} received with "
                f"version={given['version']}, which has no predictor; leave it out, or "
                "choose version 3."
            )
        checks.whole(given, "projection_layers")
        checks.positive(given, "temperature")
        ema.check_momentum(given["momentum"], given["total_steps"])

    def _head(self, part, layers):
        """v1, v2: dense and ReLU. v3: batch norm as well, and no biases."""
        v3 = self.version == 3
        projector = part == "projector"
        normed = v3 and (projector or self.predictor_last_norm)
        return heads.mlp(
            self.feature_dim if projector else self.projection_dim,
            (self.projection_hidden or self.feature_dim,) * (layers - 1)
            + (self.projection_dim,),
            hidden_norm=v3,
            last_norm="batch_no_affine" if normed else "none",
            last_bias=not v3,
            kernel_initializer=heads.UNIFORM_FAN_IN,
            norm_statistics="global",
            name=part,
        )

    def train_step(self, batch):
        self.target.update(self._momentum())
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        if self.queue is not None:
            self._enqueue(values["keys"])

    def _momentum(self):
        rising = self.total_steps if self.version == 3 else None
        return ema.momentum_at(self.step, self.momentum, rising)

    def _enqueue(self, keys):
        # Direction by direction, so that the order does not depend on replicas.
        for rows in keys:
            self.queue.enqueue(replicas.gather_rows(rows)[0])

    def image_losses(self, batch, training):
        view_a, view_b = self.views(batch)
        directions = [(view_a, view_b)]
        if self.symmetric:
            directions.append((view_b, view_a))
        losses = hits = 0.0
        all_keys = []
        for of_query, of_key in directions:
            query = self.query(of_query, training)
            keys = unit_norm.unit_rows(self.target(of_key, training=training))
            compare = self._among_batch if self.queue is None else self._among_queue
            loss, hit = compare(query, keys)
            losses += loss
            hits += hit / len(directions)
            all_keys.append(keys)
        return {"loss": losses, "contrastive_accuracy": hits, "keys": all_keys}

    def _among_queue(self, query, keys):
        queue = self.queue.contents()
        loss = contrastive.info_nce(query, keys, queue, temperature=self.temperature)
        return loss, contrastive.positive_first(query, keys, queue)

    def _among_batch(self, query, keys):
        everything, offset = replicas.gather_rows(keys)
        loss = contrastive.in_batch_info_nce(
            query,
            keys,
            temperature=self.temperature,
            global_keys=everything,
            offset=offset,
        )
        hit = contrastive.match_accuracy(query, everything, offset=offset)
        return 2 * self.temperature * loss, hit

    def query(self, images, training=False):
        """Images -> the embedding that looks for its key, not normalized."""
        z = self.projector(self.encoder(images, training=training), training=training)
        return z if self.predictor is None else self.predictor(z, training=training)

    @property
    def head(self):
        """The projector of the queries, without v3's predictor."""
        return self.projector

    def chance_loss(self, global_batch):
        """A uniform choice: `ln(queue + 1)`; v3 `4 * temperature * ln(batch)`."""
        if self.queue is None:
            return 4 * self.temperature * math.log(global_batch)
        return math.log(self.queue_size + 1) * (2 if self.symmetric else 1)

    @property
    def chooses(self):
        return True

    def num_negatives(self, global_batch):
        return global_batch - 1 if self.queue is None else self.queue_size

    def check_run(self, global_batch, source):
        if self.queue is not None:
            self.queue.check_batch(global_batch)
        else:
            why = "finds an image among the others of its batch in version 3"
            batch_checks.of_several(self, global_batch, why)

    def notes(self, global_batch, num_images):
        return [] if self.queue is None else self.queue.notes(num_images)

    @classmethod
    def recipe_for(cls, *, version=2, **_):
        _check_version(version)
        return _RECIPES[version]


def _check_version(version):
    checks.one_of({"version": version}, "version", tuple(_DEFAULTS))


def _of_paper(version, **given):
    """The arguments with the values of the version's paper in place of None."""
    _check_version(version)
    return {
        key: default if given[key] is None else given[key]
        for key, default in _DEFAULTS[version].items()
    }


def _warn_of_leaks(encoder, shuffled):
    """Says so where batch statistics tell a query which key is its own."""
    kinds = (norms.BatchNorm, keras.layers.BatchNormalization)
    present = [x for x in internals.layers_of(encoder) if isinstance(x, kinds)]
    alone = replicas.num_replicas() == 1
    if not present:
        return
    if not shuffled:
        reason = "has batch norms that cannot be shuffled (global, or Keras's own)"
    elif alone and any(layer.group_size is None for layer in shuffled):
        reason = "has local batch norms, and there is one device only"
    else:
        return
    logging.warning(
        "MoCo: the encoder %r %s, so that batch statistics can betray the positive "
        "key; build it with norm_statistics='split' (groups of 32), or train on "
        "several replicas with norm_statistics='local'.",
        encoder.name,
        reason,
    )

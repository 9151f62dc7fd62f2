"""Contrastive multiview coding (Tian et al., 2019, https://arxiv.org/abs/1906.05849).

A view is a group of an image's channels: its brightness and its colour, depth, surface
normals. Each has an encoder of its own, and learns to tell which embedding of another
view belongs to the same image. The joined features of all encoders are the product.

Departures from the authors' code (HobbitLong/CMC): that code has two views, what the
paper says of more is `mode`; negatives are drawn once per step, for the global batch,
all views and both directions, and never from the batch (there once per image, for both
directions, perhaps itself); or, without a bank, they are the batch's other images, over
all replicas. The banks start with random directions, and are updated behind the
gradient, which does not see them in either order. Images are converted to Lab in front
of the encoders, behind crop and flip as there.
"""

import itertools
import math

import keras
import tensorflow as tf

from tfssl import checks, replicas
from tfssl.data.views import recipes
from tfssl.losses import contrastive
from tfssl.methods import bank_contrast, base, batch_checks
from tfssl.models import branches, feedforward, heads

_MODES = ("full", "core")
_IN_BATCH = "in_batch"
_FEWEST = 2  # Views.
_LOSSES = (_IN_BATCH, *bank_contrast.LOSSES)
_BANKS = {"negatives": 4096, "bank_momentum": 0.5}


@keras.saving.register_keras_serializable(package="tfssl")
class CMC(base.Method):
    """CMC: find an image by another of its views.

    Args:
        encoder: a `models.Branches` of two views or more.
        temperature: float > 0. 0.07 in the authors' code with a bank of negatives, 0.1
            on STL-10; a batch alone has fewer and easier ones, and wants more.
        projection_dim: int >= 1, size of the compared embeddings (128).
        mode: `"full"`, every pair of views is compared, or `"core"`, one view with each
            of the others. Of two views they are the same.
        core: name of that view; None takes the first one.
        loss: `"in_batch"`, InfoNCE among the images of the global batch; or against a
            bank of each view's embeddings, one per image of the data, `"nce"` (the
            authors') or `"softmax"`.
        negatives: int >= 1, embeddings that each bank is asked for. None is 4,096; the
            authors have these or 16,384. Without a bank there are none.
        bank_momentum: float in [0, 1], the share of the old embedding in the new one.
            None is 0.5, the authors'.
        num_images: int >= 1, images of the data, for the banks; `tfssl.pretrain` fills
            it in. With banks `evaluate` speaks of these images only, see
            `Method.test_step`.
        seed: int, of the banks' start and of the draws.
        max_bank_gib: float > 0, the memory that all banks may take on a device.
        name: optional name.

    Views: one, any size, float32: the encoder parts it into its channels, so that crop
    and flip are shared. Nothing may move one channel without the others, or mix them:
    no colour jitter. The default recipe is `recipes.CMC_LAB`.

    The loss of an image is the sum over pairs and, in a pair, over both directions, of
    the loss of finding one view by the other.
    """

    default_recipe = recipes.CMC_LAB
    logged = ("loss", "contrastive_accuracy")
    num_views = 1

    def __init__(
        self,
        encoder,
        *,
        temperature=0.07,
        projection_dim=128,
        mode="full",
        core=None,
        loss="in_batch",
        negatives=None,
        bank_momentum=None,
        num_images=None,
        seed=0,
        max_bank_gib=bank_contrast.MAX_GIB,
        name=None,
    ):
        of_banks = _of_banks(loss, negatives=negatives, bank_momentum=bank_momentum)
        super().__init__(
            encoder,
            name=name,
            temperature=temperature,
            projection_dim=projection_dim,
            mode=mode,
            core=core,
            loss=loss,
            **of_banks,
            num_images=num_images,
            seed=seed,
            max_bank_gib=max_bank_gib,
        )
        branches.of_views("CMC", encoder, least=_FEWEST)
        self.pairs = self._pairs_of(list(encoder.branches))
        self.projector = _projector(encoder, projection_dim)
        self.banks = self._made_banks()

    @property
    def _has_banks(self):
        return self.loss != _IN_BATCH

    def _made_banks(self):
        """A bank per view, in their order."""
        if not self._has_banks:
            return []
        views = list(self.encoder.branches)
        bank_contrast.check_memory(self.settings, banks=len(views))
        return [bank_contrast.of(self, f"{view}_contrast") for view in views]

    def _pairs_of(self, views):
        """Pairs of places of views, those that are compared."""
        if self.core is not None:
            self.encoder.check_view(self.core, "core")
        if self.mode == "full":
            return list(itertools.combinations(range(len(views)), 2))
        core = views.index(self.core or views[0])
        return [(core, other) for other in range(len(views)) if other != core]

    @classmethod
    def check_settings(cls, given):
        checks.positive(given, "temperature")
        checks.whole(given, "projection_dim")
        checks.one_of(given, "mode", _MODES)
        checks.one_of(given, "loss", _LOSSES)
        if given["core"] is not None and given["mode"] != "core":
            raise ValueError(
                f"core={given['core']!r} received with mode={given['mode']!r}, which "
                "compares every pair of views; give mode='core' too, or leave core out."
            )
        of_banks = {name: given[name] for name in _BANKS}
        if given["loss"] != _IN_BATCH:
            given = given | _of_banks(given["loss"], **of_banks)
            bank_contrast.check_settings(given, banks=_FEWEST)
            return
        for name, value in of_banks.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} received with loss={_IN_BATCH!r}, which has no "
                    "bank; give loss='nce' (the authors') or loss='softmax' as well, "
                    f"or leave {name} out."
                )

    @classmethod
    def check_memory(cls, given):
        if given["loss"] != _IN_BATCH:
            # Of two views; how many there are, only the encoder knows.
            bank_contrast.check_memory(given, banks=_FEWEST)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        for bank, z, found in zip(self.banks, values["views"], values["found"]):
            bank.remember(z, found)

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        z = self.project(images, training=training)
        views = tf.split(z, len(self.encoder.branches), axis=1)
        if self._has_banks:
            found = self._against_banks(views, batch["index"])
            losses = [loss for one in found for loss in one.losses]
            hits = [hit for one in found for hit in one.hits]
        else:
            found, (losses, hits) = [], self._in_batch(views, z)
        return {
            "loss": tf.add_n(losses),
            "contrastive_accuracy": tf.add_n(hits) / len(hits),
            "views": views,
            "found": found,
        }

    def _anchors_of(self, view):
        """Places of the views that look for this one."""
        others = [pair for pair in self.pairs if view in pair]
        return [i if j == view else j for i, j in others]

    def _against_banks(self, views, index):
        """What each bank found for the views that look for its own."""
        drawn = bank_contrast.draw(self, index)
        return [
            bank.compare([views[i] for i in self._anchors_of(view)], drawn)
            for view, bank in enumerate(self.banks)
        ]

    def _in_batch(self, views, z):
        """Losses and hits of every view that looks for another one in the batch."""
        everyones, offset = replicas.gather_rows(z)
        losses, hits = [], []
        for view, candidates in enumerate(tf.split(everyones, len(views), axis=1)):
            for i in self._anchors_of(view):
                losses.append(
                    contrastive.in_batch_info_nce(
                        views[i],
                        views[view],
                        temperature=self.temperature,
                        global_keys=candidates,
                        offset=offset,
                    )
                )
                hits.append(
                    contrastive.match_accuracy(views[i], candidates, offset=offset)
                )
        return losses, hits

    def project(self, images, training=False):
        """Images -> the embeddings of all views, joined, not normalized."""
        features = self.encoder(images, training=training)
        return self.projector(features, training=training)

    @property
    def head(self):
        """The layers behind the branches: all features -> all embeddings, joined."""
        return self.projector

    def chance_loss(self, global_batch):
        """A uniform choice, in each direction of every pair."""
        if self._has_banks:
            once = bank_contrast.chance_loss(self.loss, self.negatives)
        else:
            once = math.log(global_batch)
        return 2 * len(self.pairs) * once

    @property
    def chooses(self):
        return self.loss != "nce"

    def num_negatives(self, global_batch):
        return self.negatives if self._has_banks else global_batch - 1

    def check_run(self, global_batch, source):
        if self._has_banks:
            bank_contrast.check_batch(self, global_batch)
        else:
            why = "finds an image among the others of its batch"
            batch_checks.of_several(self, global_batch, why)

    def notes(self, global_batch, num_images):
        views = list(self.encoder.branches)
        compared = ", ".join(f"{views[i]}-{views[j]}" for i, j in self.pairs)
        lines = [f"pairs of views that are compared: {compared}"]
        if self._has_banks:
            lines += bank_contrast.notes(self, banks=len(views))
        return lines


def _of_banks(loss, **given):
    """Settings of banks, with the authors' in place of None where there are banks."""
    if loss == _IN_BATCH:
        return given
    return {k: _BANKS[k] if value is None else value for k, value in given.items()}


def _projector(encoder, dim):
    """A dense layer behind every branch, as one model of the joined features.

    Features of an AlexNet or VGG are from before their last ReLU, which comes first.
    """
    features = keras.Input(encoder.output_shape[1:])
    embeddings, first = [], 0
    for view, network in encoder.branches.items():
        width = network.output_shape[-1]
        own = branches.Channels(range(first, first + width), name=f"{view}_features")
        head = heads.mlp(
            width, (dim,), kernel_initializer=heads.UNIFORM_FAN_IN, name=f"{view}_head"
        )
        of_view = own(features)
        if isinstance(network, feedforward.FeedForward):
            of_view = keras.layers.ReLU(name=f"{view}_relu")(of_view)
        embeddings.append(head(of_view))
        first += width
    joined = keras.layers.Concatenate(dtype=embeddings[0].dtype, name="embeddings")
    return keras.Model(features, joined(embeddings), name="projector")

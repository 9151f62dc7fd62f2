"""Contrastive multiview coding (Tian et al., 2019, https://arxiv.org/abs/1906.05849).

A view is a group of an image's channels: its brightness and its colour, depth, surface
normals. Each has an encoder of its own, and learns to tell which embedding of another
view belongs to the same image. The joined features of all encoders are the product.

Departures from the authors' code (HobbitLong/CMC): that code has two views, and what
the paper says of more is done here by it (`mode`); the other candidates are those of
the batch, over all replicas, not of a memory bank; images are converted to Lab in front
of the encoders, behind crop and flip as there.
"""

import itertools

import keras
import tensorflow as tf

from tfssl import checks, replicas
from tfssl.data.views import recipes
from tfssl.losses import contrastive
from tfssl.methods import base
from tfssl.models import branches, heads

_MODES = ("full", "core")


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
        name: optional name.

    Views: one, any size, float32: the encoder parts it into its channels, so that crop
    and flip are shared. Nothing may move one channel without the others, or mix them:
    no colour jitter. The default recipe is `recipes.CMC_LAB`.

    The loss of an image is the sum over pairs and, in a pair, over both directions, of
    the cross-entropy of picking its other view among those of the whole batch.
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
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            temperature=temperature,
            projection_dim=projection_dim,
            mode=mode,
            core=core,
        )
        branches.of_views("CMC", encoder, least=2)
        self.pairs = self._pairs_of(list(encoder.branches))
        self.projector = _projector(encoder, projection_dim)

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
        if given["core"] is not None and given["mode"] != "core":
            raise ValueError(
                f"core={given['core']!r} received with mode={given['mode']!r}, which "
                "compares every pair of views; give mode='core' too, or leave core out."
            )

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        z = self.project(images, training=training)
        everyones, offset = replicas.gather_rows(z)
        count = len(self.encoder.branches)
        ours, all_of = tf.split(z, count, axis=1), tf.split(everyones, count, axis=1)
        losses, hits = [], []
        for first, second in self.pairs:
            for i, j in ((first, second), (second, first)):
                losses.append(
                    contrastive.in_batch_info_nce(
                        ours[i],
                        ours[j],
                        temperature=self.temperature,
                        global_keys=all_of[j],
                        offset=offset,
                    )
                )
                hits.append(
                    contrastive.match_accuracy(ours[i], all_of[j], offset=offset)
                )
        return {
            "loss": tf.add_n(losses),
            "contrastive_accuracy": tf.add_n(hits) / len(hits),
        }

    def project(self, images, training=False):
        """Images -> the embeddings of all views, joined, not normalized."""
        features = self.encoder(images, training=training)
        return self.projector(features, training=training)

    @property
    def head(self):
        """The layers behind the branches: all features -> all embeddings, joined."""
        return self.projector

    def embed(self, images):
        return self.project(images, training=False)

    def chance_loss(self, global_batch):
        """A uniform choice among the batch, in each direction of every pair."""
        return 2 * len(self.pairs) * float(tf.math.log(float(global_batch)))

    def num_negatives(self, global_batch):
        return global_batch - 1

    def check_run(self, global_batch, source):
        if global_batch < 2:
            raise ValueError(
                f"batch_size={global_batch} received, but CMC finds an image among the "
                "others of its batch; give 2 or more."
            )

    def notes(self, global_batch, num_images):
        views = list(self.encoder.branches)
        compared = ", ".join(f"{views[i]}-{views[j]}" for i, j in self.pairs)
        return [f"pairs of views that are compared: {compared}"]


def _projector(encoder, dim):
    """A dense layer behind every branch, as one model of the joined features."""
    features = keras.Input(encoder.output_shape[1:])
    embeddings, first = [], 0
    for view, network in encoder.branches.items():
        width = network.output_shape[-1]
        own = branches.Channels(range(first, first + width), name=f"{view}_features")
        head = heads.mlp(
            width, (dim,), kernel_initializer=heads.UNIFORM_FAN_IN, name=f"{view}_head"
        )
        embeddings.append(head(own(features)))
        first += width
    joined = keras.layers.Concatenate(dtype=embeddings[0].dtype, name="embeddings")
    return keras.Model(features, joined(embeddings), name="projector")

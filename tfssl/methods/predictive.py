"""Predictive learning: one view of an image says what the others look like.

The counterpart of contrastive multiview coding, on the same encoders: z = f(v1), and a
decoder g gives g(z), which is to be v2 itself, pixel by pixel, where CMC only has to
tell v2 from those of other images. From brightness to colour it is colourisation
(Zhang et al., 2016, https://arxiv.org/abs/1603.08511), from both to each other the
split-brain autoencoder (Zhang et al., 2017, https://arxiv.org/abs/1611.09842), and Tian
et al., 2019, https://arxiv.org/abs/1906.05849, compare CMC with such prediction.

Our choices, where the papers differ among each other: z is the last feature map of an
encoder, not its mean over the image, which does not know where anything is; the decoder
is one convolution of 3x3 with batch norm and ReLU and one of 1x1, whose map is enlarged
to the size of the view; the loss is a regression of L1 or L2, not a choice among
quantised colours.
"""

import keras
import tensorflow as tf

from tfssl import checks
from tfssl.data.views import recipes
from tfssl.losses import regression
from tfssl.methods import base
from tfssl.models import branches, feature_maps, norms

_LOSSES = {"l1": 1, "l2": 2}


@keras.saving.register_keras_serializable(package="tfssl")
class Predictive(base.Method):
    """Predict the channels of the other views.

    Args:
        encoder: a `models.Branches`, whose networks pool a feature map (ResNets). With
            one view alone `targets` say what it predicts.
        targets: dict from every view of the encoder to the channels, behind what stands
            in front of the branches, that it predicts: `{"L": (1, 2)}` is
            colourisation. None takes the channels of all its other views.
        loss: `"l1"`, the mean absolute difference, or `"l2"`, half of the mean squared
            one.
        decoder_hidden: int >= 1, filters of the decoder's first convolution.
        norm_statistics: of the decoders' batch norm, as for `heads.mlp`.
        name: optional name.

    Views: one, any size, float32, as of `CMC`. The default recipe is
    `recipes.CMC_LAB`. The loss of an image is the sum over the views that predict.
    """

    default_recipe = recipes.CMC_LAB
    num_views = 1

    def __init__(
        self,
        encoder,
        *,
        targets=None,
        loss="l1",
        decoder_hidden=256,
        norm_statistics="global",
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            targets=targets,
            loss=loss,
            decoder_hidden=decoder_hidden,
            norm_statistics=norm_statistics,
        )
        branches.of_views("Predictive", encoder)
        # Functions, not attributes: Keras would take them for further networks.
        maps = {view: _map_of(part) for view, part in encoder.branches.items()}
        self._maps = lambda: maps
        self._predicted = _targets_of(encoder, targets)
        self.decoders = {
            view: _decoder(
                int(maps[view].output_shape[-1]),
                decoder_hidden,
                len(self._predicted[view]),
                norm_statistics,
                view,
            )
            for view in maps
        }

    @classmethod
    def check_settings(cls, given):
        checks.one_of(given, "loss", _LOSSES)
        checks.whole(given, "decoder_hidden")

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        channels = self.encoder.in_front(images)
        losses = [
            regression.pixel_regression(
                predicted,
                tf.gather(channels, self._predicted[view], axis=-1),
                power=_LOSSES[self.loss],
            )
            for view, predicted in self._predicted_from(channels, training).items()
        ]
        return {"loss": tf.add_n(losses)}

    def predict_views(self, images, training=False):
        """Images -> a dict from a view to what it predicts.

        That is float32 `(batch, height, width, channels)`, the channels that `targets`
        name, in the size of the images.
        """
        return self._predicted_from(self.encoder.in_front(images), training)

    def _predicted_from(self, channels, training):
        """As `predict_views`, from what the images are behind the encoder's front."""
        found = {}
        for view, own in self.encoder.picked(channels).items():
            shown = self._maps()[view](own, training=training)
            predicted = self.decoders[view](shown, training=training)
            found[view] = feature_maps.resized(predicted, channels.shape[1:3])
        return found

    def notes(self, global_batch, num_images):
        told = (
            f"{view} predicts the channels {', '.join(map(str, group))}"
            for view, group in self._predicted.items()
        )
        return ["; ".join(told)]


def _targets_of(encoder, targets):
    """The channels that each view predicts, a dict of lists."""
    groups = encoder.channels
    if targets is None:
        if len(groups) == 1:
            raise ValueError(
                f"The encoder {encoder.name!r} has the view {next(iter(groups))!r} "
                "alone, and nothing to predict from it; give targets, as "
                "{'L': (1, 2)}, or an encoder of two views or more."
            )
        return {
            view: [i for name, group in groups.items() if name != view for i in group]
            for view in groups
        }
    if not isinstance(targets, dict) or set(targets) != set(groups):
        raise ValueError(
            f"targets={targets!r} received, expected a dict from each of the views "
            f"{', '.join(groups)} to the channels that it predicts: a view that "
            "predicts nothing learns nothing; build the encoder without it."
        )
    count = encoder.in_front(keras.Input(encoder.input_shape[1:])).shape[-1]
    found = {}
    for view in groups:
        group = targets[view]
        found[view] = list(group) if isinstance(group, list | tuple) else [group]
        branches.check_group(view, found[view], count)
        if set(found[view]) & set(groups[view]):
            raise ValueError(
                f"targets={targets!r} received, but the view {view!r} has the channels "
                f"{groups[view]} itself; name others."
            )
    return found


def _map_of(network):
    """A branch up to its last feature map, which must be all of it that learns."""
    part = feature_maps.up_to(network)
    inside = {id(variable) for variable in part.trainable_variables}
    outside = [v for v in network.trainable_variables if id(v) not in inside]
    if outside:
        raise ValueError(
            f"The encoder {network.name!r} has {len(outside)} weights behind its last "
            f"feature map, {outside[0].path!r} first, which predicting views would "
            "leave untrained; take one that pools its map, such as of='resnet18'."
        )
    return part


def _decoder(width, hidden, channels, norm_statistics, view):
    """A feature map -> a map of the predicted channels, in its rows and columns."""
    with keras.name_scope(f"{view}_decoder"):
        return keras.Sequential(
            [
                keras.Input((None, None, width)),
                keras.layers.Conv2D(hidden, 3, padding="same", use_bias=False),
                norms.BatchNorm(statistics=norm_statistics),
                keras.layers.ReLU(),
                keras.layers.Conv2D(channels, 1),
            ],
            name=f"{view}_decoder",
        )

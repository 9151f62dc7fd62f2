"""Semantic segmentation: an encoder and a pyramid on it learn what pixels show."""

import keras
import tensorflow as tf

from tfssl import checks, losses, replicas
from tfssl.data import label_maps
from tfssl.methods import averaged
from tfssl.models import freezing, segmenter


@keras.saving.register_keras_serializable(package="tfssl")
class Segmentation(averaged.Averaged):
    """Trains an encoder, or a part of it, and a head to say what every pixel shows.

    The method of `tfssl.train_segmenter`. The channels of a view are those of the
    image and, behind them, a map of classes: a channel for each, 1 where a pixel is of
    this class (`data.label_maps`). So crops and flips are those of both. The encoder
    gets the channels of the image only. The loss of an image is the mean cross-entropy
    of its pixels, without those that have no class.

    Args:
        encoder: a `models.Segmenter`. The `trainable` of its encoder's layers are set
            by `freeze`.
        map_start: int, the number of the channel of the first class; None: the one
            behind the image's.
        freeze: what of the encoder stays as it is, see `models.freezing.freeze`. With
            `"all"` the encoder is in inference mode as a whole, without dropout.
        averaging: float in [0, 1), momentum of a moving average of all weights and
            batch-norm statistics, which takes the place of the trained ones in
            validation and files; 0 is none. At step `t` it is at most
            `(1 + t) / (10 + t)`.
        name: optional name of the model.

    Attributes:
        average: `ema.TargetNetwork` of the segmenter, or None.

    Views: one, float32, whose channels of the map are shares in [0, 1].

    Metrics: `pixel_accuracy`, the share of the pixels of the global batch, among those
    that have a class, whose class is right.

    Raises:
        ValueError: for settings that cannot work, an encoder that is no segmenter, or
            `freeze` where it has no such stage.

    Reference:
        Kirillov et al., 2019, https://arxiv.org/abs/1901.02446; Bao et al., 2022,
        https://arxiv.org/abs/2106.08254 (BEiT), which segments so with UPerNet. The
        mean is of each image, not of the pixels of a batch.
    """

    num_views = 1
    starts_in_part = False
    kept_as = "segmenter.keras"
    logged = ("loss", "pixel_accuracy")

    def __init__(
        self, encoder, *, map_start=None, freeze="none", averaging=0.0, name=None
    ):
        if not isinstance(encoder, segmenter.Segmenter):
            raise checks.refused("encoder", encoder, "a tfssl.models.Segmenter")
        super().__init__(
            encoder, name=name, map_start=map_start, freeze=freeze, averaging=averaging
        )
        start = encoder.channels if map_start is None else map_start
        if start < encoder.channels:
            raise checks.refused(
                "map_start",
                map_start,
                f"{encoder.channels} or more: the channels before are the image's",
            )
        self._map = (start, start + self.num_classes)
        freezing.freeze(encoder.encoder, freeze)
        self.average_of(encoder)

    @classmethod
    def check_settings(cls, given):
        checks.fraction_below_one(given, "averaging")
        checks.whole(given, "map_start", least=0, optional=True)

    @property
    def num_classes(self):
        return len(self.encoder.class_names)

    @property
    def learned_variables(self):
        """Those that the logits depend on."""
        wanted = {id(variable) for variable in self.encoder.pixel_variables}
        return [v for v in super().learned_variables if id(v) in wanted]

    def product(self):
        """The averaged segmenter, if there is one, all of its layers trainable."""
        (network,) = self.networks(training=False)
        freezing.thaw(network)
        return network, None

    def chance_loss(self, global_batch):
        return float(tf.math.log(float(self.num_classes)))

    def check_run(self, global_batch, source):
        start, end = self._map
        if source.channels < end:
            raise ValueError(
                f"The images of {source.name} have {source.channels} channel(s), but "
                f"the maps of {self.num_classes} classes are channels {start} to "
                f"{end - 1} of an image; give images with their maps (a column "
                f"channels:NAME:map{self.num_classes} of a manifest)."
            )

    def notes(self, global_batch, num_images):
        moving = sum(int(tf.size(v.value)) for v in self.learned_variables)
        return [
            f"{self.num_classes} classes of pixels; freeze={self.freeze}: {moving:,} "
            f"of {self.encoder.count_params():,} parameters train"
        ]

    # The loss. ---------------------------------------------------------------

    def image_losses(self, batch, training):
        (view,) = self.views(batch)
        images, labels = self.parted(view)
        (network,) = self.networks(training)
        logits = network.logits(images, training=training and self.freeze != "all")
        right, known = self._counted(logits, labels)
        counts = replicas.sum_over_replicas(tf.stack([right, known]))
        return {
            "loss": losses.pixel_cross_entropy(logits, labels),
            "pixel_accuracy": tf.math.divide_no_nan(counts[0], counts[1]),
        }

    def parted(self, view):
        """A view -> the image that the encoder gets, and the classes of its pixels.

        Args:
            view: float `(batch, height, width, channels)`.

        Returns:
            `(images, labels)`; labels int64 `(batch, height, width)`, 255 for none.
        """
        start, end = self._map
        shares = tf.cast(view[..., start:end], tf.float32)
        return view[..., : self.encoder.channels], label_maps.classes_of(shares)

    def _counted(self, logits, labels):
        """How many pixels are right, and how many have a class; float32 scalars."""
        known = labels != label_maps.IGNORED
        said = tf.argmax(logits, axis=-1)
        return [
            tf.reduce_sum(tf.cast(pixels, tf.float32))
            for pixels in (known & (said == labels), known)
        ]

    # What it says of images. ------------------------------------------------

    def judged(self, view):
        """What the segmenter that leaves the training says of a view.

        Args:
            view: as for `parted`.

        Returns:
            `(labels, mask, loss)`: int64 `(batch, height, width)` twice, the true
            classes and those that it says, and float32 `(batch,)`.
        """
        (network,) = self.networks(training=False)
        images, labels = self.parted(view)
        logits = network.logits(images)
        mask = tf.argmax(logits, axis=-1)
        return labels, mask, losses.pixel_cross_entropy(logits, labels)

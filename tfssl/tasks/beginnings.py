"""What a fine-tuning begins with: a trained encoder from anywhere, or a new one."""

import dataclasses
import os

import keras

from tfssl import checks, frozen, models
from tfssl import data as data_lib
from tfssl.evaluation import supervised
from tfssl.models import copying, segmenter
from tfssl.tasks import resolve, runs

_SIZE = 224  # Of a new encoder, unless it is said.


@dataclasses.dataclass(frozen=True)
class Beginning:
    """An encoder as it is before training.

    Attributes:
        network: Keras model, images -> features.
        preprocessing: `data.Preprocessing`, what it takes.
    """

    network: keras.Model
    preprocessing: data_lib.Preprocessing

    def copied(self, precision):
        """A copy to train, computing in this precision."""
        return copying.copied(self.network, "fine-tuning", precision)

    def untrained(self, precision, seed):
        """The same architecture with fresh random weights."""
        untrained = supervised.untrained(self.network, seed)
        return copying.copied(untrained, "fine-tuning", precision)

    @property
    def fingerprint(self):
        """What tells it from another, see `frozen.fingerprint`."""
        return frozen.fingerprint(self.network, self.preprocessing)


def of(
    encoder,
    *,
    preprocessing,
    encoder_args,
    image_size,
    open_images,
    seed,
    crop=None,
    head_layer=0,
    channels=None,
):
    """The `Beginning` that these arguments mean.

    Args:
        encoder: see `tasks.finetune`.
        preprocessing: `data.Preprocessing`, or None for the encoder's own; of a new
            one for images in [0, 1].
        encoder_args: dict, of the builder of an encoder by name; of a trained one see
            `models.with_settings`.
        image_size: int or None.
        open_images: function without arguments -> `Source` of the training images,
            whose channels a new encoder takes.
        seed: int, of a new encoder's weights.
        crop: see `classifying.Learning`.
        head_layer: int.
        channels: function without arguments -> int, how many a new encoder takes
            instead: the first ones of the images.

    Raises:
        ValueError: for what is no encoder, or has no preprocessing, no such layer or
            setting, or takes images of other sizes.
    """
    changes = {"size": image_size, "crop": crop}
    changes = {name: value for name, value in changes.items() if value is not None}
    if is_name(encoder):
        if head_layer:
            raise ValueError(
                f"head_layer={head_layer} received for encoder={encoder!r}, a new "
                "encoder, which has no trained head; leave it out."
            )
        made = preprocessing or _for_images(
            open_images(), image_size or _SIZE, channels and channels()
        )
        made = dataclasses.replace(made, **changes)
        keras.utils.set_random_seed(seed)
        shape = (made.size, made.size, made.channels)
        return Beginning(resolve.encoder(encoder, shape, encoder_args, made), made)
    if isinstance(encoder, str | os.PathLike):
        encoder = runs.load(encoder, head_layer=head_layer)
    elif head_layer:
        raise ValueError(
            f"head_layer={head_layer} received with a Keras model; load the encoder "
            f"with tfssl.load(run, head_layer={head_layer}), or pass the run's folder."
        )
    if not isinstance(encoder, keras.Model):
        raise checks.refused(
            "encoder",
            encoder,
            "the folder of a run, a .keras file, the name of a new encoder or a Keras "
            "model",
        )
    network, preprocessing = runs.encoder_of(encoder, preprocessing, any_size=True)
    network = segmenter.encoder_of(network)
    if encoder_args:
        network = models.with_settings(network, **encoder_args)
    preprocessing = dataclasses.replace(preprocessing, **changes)
    _check_size(network, preprocessing)
    network, preprocessing = runs.encoder_of(network, preprocessing)
    return Beginning(network, preprocessing)


def _for_images(source, size, channels):
    """What a new encoder takes: these images in [0, 1], or some of their channels."""
    return data_lib.Preprocessing(
        size=size,
        channels=channels or source.channels,
        max_value=source.max_value,
        crop=0.875 if size > 64 else 1.0,
        antialias=True,
    )


def is_name(encoder):
    """Whether this names a new encoder."""
    return isinstance(encoder, str) and (
        encoder in models.ENCODERS or encoder.startswith("keras.applications.")
    )


def _check_size(network, preprocessing):
    inputs = getattr(network, "inputs", None)
    side = inputs[0].shape[1] if inputs else None
    if side not in (None, preprocessing.size):
        raise checks.refused(
            "image_size", preprocessing.size, f"{side}, which this encoder is built for"
        )

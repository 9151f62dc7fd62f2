"""Frozen networks: teachers, which are asked and never trained.

A teacher sees what the student sees. The views are made for the student, so each is
turned into the teacher's own kind of image: its size, its normalisation.
"""

import hashlib

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks
from tfssl.data.preprocessing import Preprocessing
from tfssl.models import feature_maps, headed


@keras.saving.register_keras_serializable(package="tfssl")
class Frozen(keras.layers.Layer):
    """A network that is only asked: no gradient, never in training mode.

    As a `follower` no optimizer touches it, and as `constant` no checkpoint holds it:
    whoever resumes brings the same network, see `fingerprint`.

    A view of another size is resized to the network's with an antialiased filter, on
    the device, whichever of the two is larger; a view of its size stays as it is. The
    crop of the preprocessing is not taken: a view is one.

    Args:
        network: a built Keras model, images as `preprocessing` makes them -> features
            `(batch, dim)`, a feature map `(batch, rows, columns, dim)`, or logits. It
            computes by its own dtype policy.
        preprocessing: `data.Preprocessing` of the network: its size, channels, mean and
            std. A network of pixels from 0 to 255 has `std=1 / 255`, one of -1 to 1
            `mean=0.5, std=0.5`.
        views: `data.Preprocessing` of the views, whose channels, mean and std count; or
            None for pixels in [0, 1].
        name: optional name.

    Attributes:
        network: as given.
        preprocessing: as given.
        views: as given.

    Raises:
        ValueError: if one of these is missing, the network is not built, or its
            channels are not those of the views.
    """

    follower = True
    constant = True

    def __init__(self, network, preprocessing, views=None, *, name="teacher"):
        # Pixels stay float32; the network casts for itself.
        super().__init__(name=name, dtype="float32", autocast=False)
        if not isinstance(network, keras.Model) or not network.built:
            raise checks.refused("teacher", network, "a built Keras model")
        if not isinstance(preprocessing, Preprocessing):
            raise ValueError(
                f"The teacher {network.name!r} has no preprocessing, so that nobody "
                "knows which pixels it takes; pass its tfssl.data.Preprocessing(...)."
            )
        if views is not None and views.channels != preprocessing.channels:
            raise ValueError(
                f"The teacher {network.name!r} takes images of "
                f"{preprocessing.channels} channel(s), but the views have "
                f"{views.channels}; open the images with "
                f"channels={preprocessing.channels}, or take another teacher."
            )
        self.network = network
        self.preprocessing = preprocessing
        self.views = views
        self.built = True

    def call(self, views):
        """What the network gives for views `(batch, h, w, c)`, without gradient."""
        return tf.stop_gradient(self.network(self.prepared(views), training=False))

    def asked_for(self, layer=None):
        """What this network is asked for, if not always its output.

        Args:
            layer: name of a feature map, see `feature_maps.up_to`; None is the output.

        Returns:
            `(function, shape)`: views -> its values, without gradient, and their shape
            with None for the batch.

        Raises:
            ValueError: if there is no such map.
        """
        made = self.preprocessing
        image = (made.size, made.size, made.channels)
        if layer is None:
            return self, tuple(headed.ends(self.network, image)[1].shape)
        part = feature_maps.up_to(self.network, layer)
        shape = part(keras.Input(image)).shape

        def ask(views):
            return tf.stop_gradient(part(self.prepared(views), training=False))

        return ask, tuple(shape)

    def prepared(self, views, size=None):
        """Views as the network takes them.

        Args:
            views: `(batch, h, w, channels)`.
            size: `(height, width)`, for a network that takes images of any; None for
                its preprocessing's.

        Returns:
            float32 `(batch, *size, channels)`.
        """
        wanted = self.preprocessing
        size = (wanted.size, wanted.size) if size is None else tuple(size)
        mean, std = (0.0, 1.0) if self.views is None else _normalization(self.views)
        views = tf.cast(views, tf.float32)
        same = (mean, std) == _normalization(wanted)
        fits = tuple(views.shape[1:3]) == size
        if same and fits:
            return views
        pixels = views * np.float32(std) + np.float32(mean)
        if not fits:
            pixels = feature_maps.resized(pixels, size, wanted.resize)
            # Bicubic filters overshoot; no image lies outside its range.
            pixels = tf.clip_by_value(pixels, 0.0, 1.0)
        return wanted.normalize(pixels)

    def fingerprint(self):
        """What tells this network from another: 16 hexadecimal digits.

        Of its weights, in order, and of the pixels that it takes; not of names, nor of
        the file that it came from.
        """
        return fingerprint(self.network, self.preprocessing)

    def get_config(self):
        """Every constructor argument."""
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "preprocessing": self.preprocessing.get_config(),
            "views": self.views and self.views.get_config(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the layer that `get_config` describes."""
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        views = config["views"] and Preprocessing.from_config(config["views"])
        preprocessing = Preprocessing.from_config(config["preprocessing"])
        return cls(network, preprocessing, views, name=config["name"])


def fingerprint(network, preprocessing):
    """As `Frozen.fingerprint`, before there is a layer."""
    digest = hashlib.sha256()
    for weight in network.weights:  # Without the seeds of random layers.
        value = keras.ops.convert_to_numpy(weight)
        digest.update(f"{value.shape} {weight.dtype}".encode())
        digest.update(value.tobytes())
    made = preprocessing
    taken = (made.size, made.channels, made.resize, *_normalization(made))
    digest.update(repr(taken).encode())
    return digest.hexdigest()[:16]


def _normalization(preprocessing):
    return preprocessing.mean, preprocessing.std

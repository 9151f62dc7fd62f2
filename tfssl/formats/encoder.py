"""An encoder: a network, and the preprocessing that makes its input of an image."""

import keras

from tfssl.data.preprocessing import Preprocessing
from tfssl.models import headed


class Preprocessed(keras.Model):
    """A model around a network whose images its preprocessing makes.

    Attributes:
        network: the encoder's Keras model, images -> features `(batch, dim)`.
        preprocessing: `data.Preprocessing`, or None if nobody knows it.
        stage_outputs: those of the network, an empty dict if it names none.
    """

    @property
    def stage_outputs(self):
        return getattr(self.network, "stage_outputs", {})


@keras.saving.register_keras_serializable(package="tfssl")
class Encoder(Preprocessed):
    """A network with its preprocessing, as `tfssl.load` gives it.

    Any Keras model becomes one, to embed, retrieve and export with as with that of a
    run, and to be saved by Keras (`encoder.save("mine.keras")`) with all that belongs
    to it. As a Keras model it is the network itself: the same input, the same layers
    and variables, the same output. `Encoder.from_config(encoder.get_config())` makes
    another one of fresh weights; `keras.models.clone_model` leaves the preprocessing
    out.

    Args:
        network: a built Keras model, images as `preprocessing` makes them -> features
            `(batch, dim)`. An `Encoder` or a `Classifier` gives its network.
        preprocessing: `data.Preprocessing`, or None if nobody knows it.
        name: optional name; None takes the network's.

    Attributes:
        network: as given, of its own class.
        preprocessing: as given.
        stage_outputs: those of the network, an empty dict if it names none.

    Raises:
        ValueError: if the network is not built, or neither it nor the preprocessing
            says which images it takes.

    Example:
        >>> network = keras.applications.EfficientNetB0(
        ...     pooling="avg", include_top=False
        ... )
        >>> # It takes pixels up to 255: images in [0, 1], divided by 1 / 255.
        >>> encoder = Encoder(network, data.Preprocessing(size=224, std=1 / 255))
        >>> embed(encoder, "photos/", "embeddings.npz")
    """

    def __init__(self, network, preprocessing, *, name=None):
        network = network_of(network)
        super().__init__(*_ends(network, preprocessing), name=name or network.name)
        self.network = network
        self.preprocessing = preprocessing
        self.dtype_policy = network.dtype_policy

    def call(self, inputs, training=None, mask=None):
        """What the network makes of images."""
        return self.network(inputs, training=training)

    def get_config(self):
        """Every constructor argument."""
        config = {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
        }
        if self.preprocessing is not None:
            config["preprocessing"] = self.preprocessing.get_config()
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        preprocessing = config.get("preprocessing")
        if preprocessing is not None:
            preprocessing = Preprocessing.from_config(preprocessing)
        return cls(network, preprocessing, name=config["name"])


def network_of(model):
    """The network of an `Encoder` or a `Classifier`; another model itself."""
    return model.network if isinstance(model, Preprocessed) else model


def parts(encoder, preprocessing=None):
    """The network and the preprocessing of an encoder.

    Args:
        encoder: an `Encoder` or a `Classifier`, or any Keras model.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.

    Raises:
        ValueError: if there is none.
    """
    if preprocessing is None and isinstance(encoder, Preprocessed):
        preprocessing = encoder.preprocessing
    if preprocessing is None:
        raise ValueError(
            "This encoder carries no preprocessing; load it with tfssl.load, wrap it "
            "(tfssl.formats.Encoder), or pass "
            "preprocessing=tfssl.data.Preprocessing(...)."
        )
    return network_of(encoder), preprocessing


def _ends(network, preprocessing):
    """Input and output, as symbolic tensors."""
    if not network.built:
        raise ValueError(
            f"The network {network.name!r} is not built; call it once on images, or "
            "make it with an input shape."
        )
    if preprocessing is not None:
        return headed.ends(network, image_shape(preprocessing))
    if not getattr(network, "inputs", None):
        raise ValueError(
            f"The network {network.name!r} is no graph of layers, and does not say "
            "which images it takes; give its preprocessing."
        )
    return headed.ends(network)


def image_shape(preprocessing):
    """`(height, width, channels)` of the images that a preprocessing makes."""
    return preprocessing.size, preprocessing.size, preprocessing.channels

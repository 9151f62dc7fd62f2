"""A classifier: an encoder, the layer that tells classes apart, and their names."""

import keras

from tfssl import checks
from tfssl.data.preprocessing import Preprocessing
from tfssl.formats import encoder as encoder_lib
from tfssl.models import headed


@keras.saving.register_keras_serializable(package="tfssl")
class Classifier(encoder_lib.Preprocessed):
    """What `tfssl.finetune` trains, as `tfssl.load_classifier` gives it.

    As a Keras model: images as `preprocessing` makes them -> logits `(batch, classes)`.
    Saved by Keras (`classifier.save("mine.keras")`) the file holds all that belongs to
    it.

    Args:
        encoder: a `formats.Encoder`, or a built Keras model, images -> features
            `(batch, dim)`.
        head: Keras model, these features -> logits `(batch, classes)`.
        class_names: their names, by column.
        preprocessing: `data.Preprocessing`; None takes that of an `Encoder`.
        multilabel: whether an image may be of several classes, or of none.
        name: optional name; None takes the encoder's.

    Attributes:
        network: the encoder's Keras model.
        head: as given.
        class_names: tuple of texts.
        preprocessing: as given.
        multilabel: as given.

    Raises:
        ValueError: if there is no preprocessing, or as many names as logits.
    """

    def __init__(
        self,
        encoder,
        head,
        class_names,
        *,
        preprocessing=None,
        multilabel=False,
        name=None,
    ):
        network, preprocessing = encoder_lib.parts(encoder, preprocessing)
        images, features = headed.ends(network, encoder_lib.image_shape(preprocessing))
        logits = head(features)
        super().__init__(images, logits, name=name or network.name)
        self.network = network
        self.head = head
        self.class_names = tuple(map(str, class_names))
        self.preprocessing = preprocessing
        self.multilabel = bool(multilabel)
        self.dtype_policy = network.dtype_policy
        if len(self.class_names) != logits.shape[-1]:
            raise checks.refused(
                "class_names", list(class_names), f"{logits.shape[-1]} names"
            )

    def call(self, inputs, training=None, mask=None):
        """The logits of images, `(batch, classes)`."""
        return self.head(self.network(inputs, training=training), training=training)

    def probabilities(self, images):
        """float32 `(batch, classes)`: their sum is 1, or each stands for itself."""
        return self.probabilities_of(self(images, training=False))

    def probabilities_of(self, logits):
        """The same, of logits."""
        logits = keras.ops.cast(logits, "float32")
        activate = keras.ops.sigmoid if self.multilabel else keras.ops.softmax
        return activate(logits)

    def get_config(self):
        """Every constructor argument."""
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.network),
            "head": keras.saving.serialize_keras_object(self.head),
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing.get_config(),
            "multilabel": self.multilabel,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the classifier that `get_config` describes."""
        parts = {
            part: keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
            for part in ("encoder", "head")
        }
        preprocessing = Preprocessing.from_config(config["preprocessing"])
        return cls(**config | parts | {"preprocessing": preprocessing})

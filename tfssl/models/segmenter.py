"""A segmenter: an encoder, and a head that says of every pixel what it shows."""

import keras
import tensorflow as tf
from keras import ops

from tfssl import checks
from tfssl.models import pyramid

_MOST = 255  # Classes of a mask of 8 bits; the value 255 is no class.


@keras.saving.register_keras_serializable(package="tfssl")
class Segmenter(keras.Model):
    """Says of every pixel which of some classes it belongs to.

    A small pyramid network on the stages of an encoder, see `pyramid.maps` and
    `pyramid.head`. As a Keras model it is the encoder itself, images -> features
    `(batch, dim)`: so evaluations and files take it as any encoder.

    Args:
        encoder: a functional Keras model with `stage_outputs`, images -> features.
        class_names: texts, 2 to 255, by the number of a class.
        image_size: int, the side of the square images.
        width: int, channels of the pyramid, a multiple of 16.
        dtype: Keras dtype policy of the head; None is the global one.
        name: name of the model; None takes the encoder's with `_segmenter`.

    Attributes:
        encoder: as given.
        head: Keras model, the maps of the pyramid -> logits.
        class_names: tuple of texts.
        stage_outputs: those of the encoder.

    Raises:
        ValueError: for an encoder without stages, for sizes that it does not take, or
            arguments that cannot work.
    """

    def __init__(
        self,
        encoder,
        class_names,
        *,
        image_size,
        width=128,
        dtype=None,
        name=None,
    ):
        given = {"image_size": image_size}
        checks.whole(given, "image_size")
        class_names = tuple(map(str, class_names))
        if not 2 <= len(class_names) <= _MOST:
            raise checks.refused(
                "class_names", list(class_names), f"2 to {_MOST} names"
            )
        if len(set(class_names)) < len(class_names):
            raise checks.refused("class_names", list(class_names), "no name twice")
        policy = keras.dtype_policies.get(dtype)
        name = name or f"{encoder.name}_segmenter"
        shape = (image_size, image_size, encoder.inputs[0].shape[-1])
        whole = pyramid.maps(encoder, shape, features=True)
        maps = keras.Model(whole.inputs[0], whole.outputs[1:], name="maps")
        super().__init__(encoder.inputs[0], encoder.outputs[0], name=name)
        self.encoder = encoder
        self.class_names = class_names
        self.image_size = image_size
        self.width = width
        self.head = pyramid.head(
            [tuple(output.shape[1:]) for output in maps.outputs],
            len(class_names),
            shape[:2],
            width=width,
            dtype=policy,
        )
        # Functions, not attributes: their layers are the encoder's.
        self._maps, self._whole = lambda: maps, lambda: whole
        self._head_policy = policy
        self.dtype_policy = encoder.dtype_policy

    @property
    def stage_outputs(self):
        return self.encoder.stage_outputs

    @property
    def channels(self):
        """Channels of the images."""
        return self.encoder.inputs[0].shape[-1]

    def call(self, inputs, training=None, mask=None):
        """The encoder's features of images, `(batch, dim)`."""
        return self.encoder(inputs, training=training)

    def logits(self, images, training=False):
        """How well each class fits each pixel.

        Args:
            images: float `(batch, image_size, image_size, channels)`.
            training: bool, whether it is a step of training.

        Returns:
            float32 `(batch, image_size, image_size, classes)`.

        Raises:
            ValueError: for images of another size.
        """
        self._check_shape(images)
        maps = self._maps()(images, training=training)
        return self.head(maps, training=training)

    def features_and_logits(self, images):
        """What calling it gives and `logits`, in one pass through the encoder."""
        self._check_shape(images)
        features, *maps = self._whole()(images, training=False)
        return features, self.head(maps, training=False)

    def _check_shape(self, images):
        wanted = (self.image_size, self.image_size, self.channels)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"Images of {' x '.join(map(str, images.shape[1:]))} received, but the "
                f"segmenter {self.name!r} takes {' x '.join(map(str, wanted))}; resize "
                "them first."
            )

    def mask(self, images):
        """Images, as for `logits` -> the class of each pixel, int32 without channels.

        Of equal logits the smaller class counts.
        """
        # As `Tokenizer.tokens`, and for its reason.
        return tf.argmax(self.logits(images), axis=-1, output_type=tf.int32)

    def probabilities(self, images):
        """Images, as for `logits` -> float32 of the logits' shape, of sum 1."""
        logits = ops.cast(self.logits(images), "float32")
        return ops.softmax(logits, axis=-1)

    @property
    def pixel_variables(self):
        """The trainable variables that the logits depend on.

        Not those of the encoder behind its last map, such as the last norm of a
        transformer.
        """
        parts = self._maps(), self.head
        return [variable for part in parts for variable in part.trainable_variables]

    def get_config(self):
        """Every constructor argument."""
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "width": self.width,
            "dtype": keras.dtype_policies.serialize(self._head_policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the segmenter that `get_config` describes."""
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**config | {"encoder": encoder})


def encoder_of(network):
    """The encoder of a `Segmenter`, whose head features do not reach; or a network."""
    return network.encoder if isinstance(network, Segmenter) else network

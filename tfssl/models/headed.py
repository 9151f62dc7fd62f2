"""An encoder that goes on into its head, to fine-tune from the head's middle."""

import keras


@keras.saving.register_keras_serializable(package="tfssl")
class Headed(keras.Model):
    """An encoder and layers of its head, as one encoder.

    Args:
        encoder: a built Keras model, images -> features `(batch, dim)`.
        head: Keras model, these features -> `(batch, width)`, see
            `heads.first_layers`; built or not.
        image_shape: `(height, width, channels)`, asked only where the encoder is no
            graph of layers and does not say it itself.
        name: optional name; None takes the encoder's.

    Attributes:
        encoder: as given.
        head: as given.
        stage_outputs: those of the encoder, an empty dict if it names none.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2), on fine-tuning.
    """

    def __init__(self, encoder, head, *, image_shape=None, name=None):
        images, features = ends(encoder, image_shape)
        super().__init__(images, head(features), name=name or encoder.name)
        self.encoder = encoder
        self.head = head
        self.image_shape = image_shape and tuple(image_shape)
        self.dtype_policy = encoder.dtype_policy

    def call(self, inputs, training=None, mask=None):
        """What the head makes of the encoder's features of images."""
        return self.head(self.encoder(inputs, training=training), training=training)

    @property
    def stage_outputs(self):
        return getattr(self.encoder, "stage_outputs", {})

    def get_config(self):
        """Every constructor argument."""
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "head": keras.saving.serialize_keras_object(self.head),
            "image_shape": self.image_shape and list(self.image_shape),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""
        parts = {
            part: keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
            for part in ("encoder", "head")
        }
        return cls(**config | parts)


def ends(network, image_shape=None):
    """Input and output of a network, as symbolic tensors.

    Args:
        network: a built Keras model of images.
        image_shape: `(height, width, channels)`, for one that is no graph of layers.
    """
    if getattr(network, "inputs", None):
        return network.inputs[0], network.outputs[0]
    images = keras.Input(image_shape)
    return images, network(images)

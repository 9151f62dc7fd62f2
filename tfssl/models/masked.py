"""A vision transformer that does not see some patches: what guesses them is behind."""

import keras
from keras import ops

from tfssl.models import remat


@keras.saving.register_keras_serializable(package="tfssl")
class HiddenPatches(keras.layers.Layer):
    """Puts one learned vector in the place of every patch that is hidden.

    Args:
        **kwargs: of `keras.layers.Layer`.

    Reference:
        Bao et al., 2022, https://arxiv.org/abs/2106.08254, 2.3: behind the projection
        of the patches, before they are told their places.
    """

    def build(self, input_shape):
        # Of rank 3, so that weight decay takes it as the authors' does.
        self.token = self.add_weight(
            name="mask_token",
            shape=(1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, maps, mask):
        """`(batch, rows, columns, dim)`, hidden where `mask`, without `dim`, is on."""
        token = ops.cast(self.token, maps.dtype)
        return ops.where(ops.expand_dims(mask, -1), token, maps)

    def compute_output_shape(self, maps_shape, mask_shape=None):
        return maps_shape


class Masked:
    """The passes of a `ViT` with hidden patches; it has no weights but `hidden`'s.

    Args:
        encoder: `models.ViT`.
        hidden: `HiddenPatches`, built for its width.
    """

    def __init__(self, encoder, hidden):
        self._encoder = encoder
        self._hidden = hidden
        self._rest = _from_tokens(encoder)

    def __call__(self, images, mask, training=False):
        """The tokens of all patches behind the last norm.

        Args:
            images: float `(batch, height, width, channels)`.
            mask: bool `(batch, rows, columns)`, the patches to hide.
            training: bool.

        Returns:
            float `(batch, rows * columns, dim)`, row by row, hidden ones too.
        """
        encoder, rest = self._encoder, self._rest
        if rest.remat != encoder.remat:
            rest.remat = encoder.remat
        maps = encoder.get_layer("patches")(images)
        tokens = encoder.get_layer("tokens")(self._hidden(maps, mask))
        found = rest(tokens, training=training)
        return found[:, int(encoder.settings["class_token"]) :]


def _from_tokens(encoder):
    """What follows the tokens, which runs block by block where the encoder does."""
    x = tokens = keras.Input((None, encoder.output_shape[-1]), name="tokens")
    ends = []
    for block in encoder.block_layers:
        x = block(x)
        ends.append(x)
    network = remat.Blockwise(tokens, encoder.get_layer("features")(x))
    network.block_ends = ends
    network.dtype_policy = encoder.dtype_policy
    return network


def grid_of(encoder, height, width):
    """`(rows, columns)` of the patches of an image.

    Args:
        encoder: `models.ViT`.
        height: int.
        width: int.

    Raises:
        ValueError: for sides that its patches do not divide.
    """
    encoder.check_images(height, width)
    patch = encoder.settings["patch"]
    return height // patch, width // patch

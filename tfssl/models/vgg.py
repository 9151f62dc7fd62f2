"""VGG-16 with batch norm (Simonyan & Zisserman, 2015, arXiv 1409.1556)."""

import keras

from tfssl.models import feedforward

# Convolutions of the five blocks, and their filters.
_BLOCKS = {16: ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))}


@keras.saving.register_keras_serializable(package="tfssl")
class VGG(feedforward.FeedForward):
    """A VGG encoder: images to the second dense layer, before its ReLU.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, 4096 * width)`, float32 under mixed precision too. `models.vgg`
    is its short name.

    Args:
        depth: 16, thirteen convolutions and (with the classifier) three dense layers.
        width: float, factor on every layer's number of filters (64 to 512) and of
            units (4096, 4096). May be below 1, as 0.25.
        input_shape: `(height, width, channels)`, all known, from 32 pixels: the dense
            layers fit one size, and five pools halve it.
        sobel: whether a fixed `Sobel` filter comes first; DeepCluster's setting.
        dropout: float in [0, 1), the rate between the dense layers.
        norm_statistics: as for `models.ResNet`, of the convolutions; dense layers
            have no norm.
        norm_group_size: as for `models.ResNet`.
        dtype: Keras dtype policy of the layers. `None`: the global policy.
        name: name of the model. `None`: `"vgg16"`.
        trainable: as in Keras.

    Attributes:
        stage_outputs: dict of Keras tensors `"conv1"` … `"conv5"`, the feature maps
            behind the last ReLU of each block, before its pool.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        facebookresearch/deepcluster, `models/vgg16.py`; biases and initial values as
        in `models.AlexNet`.
    """

    def __init__(
        self,
        depth=16,
        *,
        width=1,
        input_shape=(224, 224, 3),
        sobel=False,
        dropout=0.5,
        norm_statistics="local",
        norm_group_size=32,
        dtype=None,
        name=None,
        trainable=True,
    ):
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {tuple(_BLOCKS)}, got {depth!r}.")
        super().__init__(
            {
                f"conv{i}": ([(filters, 3, 1, 1)] * count, (2, 2))
                for i, (count, filters) in enumerate(_BLOCKS[depth], start=1)
            },
            width=width,
            input_shape=input_shape,
            sobel=sobel,
            dropout=dropout,
            drop_maps=False,
            norm_statistics=norm_statistics,
            norm_group_size=norm_group_size,
            dtype=dtype,
            name=name or f"vgg{depth}",
            trainable=trainable,
        )
        self.depth = depth

    def get_config(self):
        """Every constructor argument."""
        return {**super().get_config(), "depth": self.depth}


vgg = VGG

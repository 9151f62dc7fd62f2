"""AlexNet with batch norm, the encoder of DeepCluster.

Krizhevsky et al., 2012, with the changes of DeepCluster's code: batch norm in place
of local response normalization, one tower, and an optional Sobel filter in front.
"""

import keras

from tfssl.models import feedforward

_POOL = (3, 2)
_STEMS = {
    # Kernel size, strides and padding of the first two convolutions.
    "imagenet": ((11, 4, 2), (5, 1, 2)),
    "cifar": ((3, 1, 1), (3, 1, 1)),
}


@keras.saving.register_keras_serializable(package="tfssl")
class AlexNet(feedforward.FeedForward):
    """An AlexNet encoder: images to the second dense layer, before its ReLU.

    A functional Keras model: float images `(batch, height, width, channels)` to
    features `(batch, 4096 * width)`, float32 under mixed precision too.
    `models.alexnet` is its short name.

    Args:
        width: float, factor on every layer's number of filters (96, 256, 384, 384,
            256) and of units (4096, 4096). May be below 1, as 0.25.
        stem: `"imagenet"`, a first convolution of 11x11 and stride 4 and a second of
            5x5, for images from 63 pixels, or `"cifar"`, both of 3x3 and stride 1,
            for images from 15 pixels; not in the papers.
        input_shape: `(height, width, channels)`, all known: the dense layers fit one
            size.
        sobel: whether a fixed `Sobel` filter comes first; DeepCluster's setting.
        dropout: float in [0, 1), the rate in front of both dense layers.
        norm_statistics: as for `models.ResNet`, of the convolutions; dense layers
            have no norm.
        norm_group_size: as for `models.ResNet`.
        dtype: Keras dtype policy of the layers. `None`: the global policy.
        name: name of the model. `None`: `"alexnet"`.
        trainable: as in Keras.

    Attributes:
        stage_outputs: dict of Keras tensors `"conv1"` … `"conv5"`, the feature maps
            behind the five convolutions' ReLUs, before any pool.

    Raises:
        ValueError: naming the argument, what was received and what is valid.

    Reference:
        Caron et al., 2018, https://arxiv.org/abs/1807.05520, section 4.1 and its
        code (`models/alexnet.py`). As there, convolutions have a bias in front of
        their norm, kernels start normal with variance `2 / (kernel area * filters)`,
        dense ones with standard deviation 0.01. The ReLU behind the features belongs
        to the classifier.
    """

    def __init__(
        self,
        *,
        width=1,
        stem="imagenet",
        input_shape=(224, 224, 3),
        sobel=False,
        dropout=0.5,
        norm_statistics="local",
        norm_group_size=32,
        dtype=None,
        name=None,
        trainable=True,
    ):
        if stem not in _STEMS:
            raise ValueError(f"stem must be one of {tuple(_STEMS)}, got {stem!r}.")
        first, second = _STEMS[stem]
        super().__init__(
            {
                "conv1": ([(96, *first)], _POOL),
                "conv2": ([(256, *second)], _POOL),
                "conv3": ([(384, 3, 1, 1)], None),
                "conv4": ([(384, 3, 1, 1)], None),
                "conv5": ([(256, 3, 1, 1)], _POOL),
            },
            width=width,
            input_shape=input_shape,
            sobel=sobel,
            dropout=dropout,
            drop_maps=True,
            norm_statistics=norm_statistics,
            norm_group_size=norm_group_size,
            dtype=dtype,
            name=name or "alexnet",
            trainable=trainable,
        )
        self.stem = stem

    def get_config(self):
        """Every constructor argument."""
        return {**super().get_config(), "stem": self.stem}


alexnet = AlexNet

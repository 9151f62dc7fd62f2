"""Where the class token of a vision transformer looks."""

import keras
import numpy as np

from tfssl import models


def has_maps(network):
    """Whether a network is a vision transformer with a class token."""
    return isinstance(network, models.ViT) and network.settings["class_token"]


def maps(network, images):
    """What the class token looks at in the last block, head by head.

    Args:
        network: Keras model, of which `has_maps` is true.
        images: float array `(batch, height, width, channels)`, as the network takes
            them.

    Returns:
        float32 array `(batch, heads, rows, columns)`, a number per patch: the share of
        the token's attention that goes there. Together they are 1 less what the token
        gives itself, and a distillation token.

    Reference:
        facebookresearch/dino, visualize_attention.py.
    """
    inner = keras.Model(network.inputs[0], network.block_ends[-2])
    last = network.block_layers[-1]
    tokens = last.norms[0](inner(images, training=False))
    patch = network.settings["patch"]
    rows, columns = (side // patch for side in images.shape[1:3])
    shares = np.asarray(last.attention.probabilities(tokens))
    shares = shares[:, :, 0, -rows * columns :]
    return shares.reshape(*shares.shape[:2], rows, columns)

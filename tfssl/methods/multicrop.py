"""One encoder pass per resolution, for recipes with views of several sizes."""

import itertools

import tensorflow as tf


def encode(encoder, views, training):
    """The features of all views, encoded together where they have one size.

    Consecutive views of one size pass the encoder as one batch, so batch norm sees
    them together, and each size by itself.

    Args:
        encoder: a Keras model that takes every size (`input_shape=(None, None, c)`
            where they differ).
        views: list of `(batch, h, w, c)`.
        training: bool.

    Returns:
        `(views * batch, dim)`, view by view.

    Reference:
        Caron et al., 2020, https://arxiv.org/abs/2006.09882, section 3.2;
        facebookresearch/swav, `MultiPrototypes` and `forward` of resnet50.py.
    """
    groups = itertools.groupby(views, key=lambda view: tuple(view.shape[1:]))
    passes = [
        encoder(tf.concat(list(group), axis=0), training=training)
        for _, group in groups
    ]
    return passes[0] if len(passes) == 1 else tf.concat(passes, axis=0)

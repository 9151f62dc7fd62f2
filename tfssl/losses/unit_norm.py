"""Rows of length 1: the door through which embeddings enter every cosine loss."""

import tensorflow as tf


def unit_rows(rows):
    """Divides each vector of the last axis by its length, in float32.

    Args:
        rows: tensor `(…, dim)` of any float dtype.

    Returns:
        float32 tensor of the same shape. An all-zero vector stays zero, with zero
        gradient; vectors shorter than 1e-6 are divided by 1e-6.
    """
    rows = tf.cast(rows, tf.float32)
    square = tf.reduce_sum(tf.square(rows), axis=-1, keepdims=True)
    # The floor bounds the gradient of tiny rows. Without the exception for zero
    # it would be 1e6 there, which is infinite in float16.
    inverse = tf.where(square > 0, tf.math.rsqrt(tf.maximum(square, 1e-12)), 0)
    return rows * inverse

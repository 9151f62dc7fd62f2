"""Maps of classes that come as channels of an image, a share for every class."""

import tensorflow as tf

# The class of a pixel that has none, as in the files of `sources.aligned`.
IGNORED = 255


def classes_of(shares):
    """The class of each pixel: the one with the largest share, of equal ones the first.

    A resize leaves shares of several classes on their border.

    Args:
        shares: float tensor `(..., classes)` in [0, 1], whose sum is 1 where a pixel
            has a class and 0 where it has none.

    Returns:
        int64 tensor `(...)`; `IGNORED` where less than half of a pixel has a class.
    """
    shares = tf.convert_to_tensor(shares)
    known = tf.reduce_sum(shares, axis=-1) >= 0.5
    return tf.where(known, tf.argmax(shares, axis=-1), IGNORED)

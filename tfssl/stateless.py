"""Random numbers as hashes of what they are for: no state, the same everywhere.

Whole numbers only until the last step, so that they are equal to the bit in a plain
graph, under XLA and on every device, which `tf.random.stateless_uniform` is not.
"""

import tensorflow as tf

# Of a float32 in (0, 1), both ends left out.
_BITS = 23


def uint64(value):
    """A Python int, of any size and sign, as a uint64 scalar tensor."""
    return tf.constant(value % 2**64, tf.uint64)


def mixed(x):
    """The finaliser of SplitMix64: every bit of the input reaches all of the output."""
    x += uint64(0x9E3779B97F4A7C15)
    x = (x ^ tf.bitwise.right_shift(x, uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ tf.bitwise.right_shift(x, uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ tf.bitwise.right_shift(x, uint64(31))


def uniform(seed, keys, columns, *, purpose):
    """Numbers in (0, 1), independent for every seed, purpose, key and column.

    Args:
        seed: int, of the run.
        keys: int64 `(n,)`, what the numbers belong to (a place of the stream).
        columns: int, how many numbers each key gets.
        purpose: text that keeps apart what draws for the same keys.

    Returns:
        float32 `(n, columns)`, multiples of 2^-24.
    """
    bits = tf.bitwise.right_shift(
        _bits(seed, keys, columns, purpose), uint64(64 - _BITS)
    )
    whole = tf.cast(tf.cast(bits, tf.int32), tf.float32)
    return (whole + 0.5) * 2.0**-_BITS


def below(bound, seed, keys, columns, *, purpose):
    """Whole numbers from 0 to `bound - 1`, each as likely as the others.

    Args:
        bound: int or int64 scalar tensor, from 1 to 2^31. No number is more likely than
            another by more than `bound / 2^32` of its share.
        seed: as of `uniform`.
        keys: as of `uniform`.
        columns: as of `uniform`.
        purpose: as of `uniform`.

    Returns:
        int64 `(n, columns)`.
    """
    upper = tf.bitwise.right_shift(_bits(seed, keys, columns, purpose), uint64(32))
    scaled = upper * tf.cast(bound, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(scaled, uint64(32)), tf.int64)


def _bits(seed, keys, columns, purpose):
    """uint64 `(n, columns)`, of which every bit is random."""
    stream = int.from_bytes(purpose.encode(), "little")
    key = mixed(uint64(seed) + mixed(uint64(stream)))
    key = mixed(tf.cast(keys, tf.uint64) + key)
    column = tf.cast(tf.range(columns, dtype=tf.int64), tf.uint64)
    return mixed(key[:, tf.newaxis] + column)

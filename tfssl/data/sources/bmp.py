"""Pixels of BMP files, also of the kinds that TensorFlow does not read."""

import tensorflow as tf

from tfssl.data.sources import image_headers


def decode(encoded):
    """A BMP file, uint8 `(height, width, channels)` in channels of its own.

    Args:
        encoded: scalar string tensor, a file that `image_headers.limited` let through.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a file that is cut short, or whose
            pixels name colours that its table does not have.
    """
    bits = image_headers.bmp_form(encoded)[3]
    return tf.case(
        [
            (tf.equal(bits, 16), lambda: _of_pairs(encoded)),
            (tf.equal(bits, 8), lambda: _coloured(encoded, _bytes_each(encoded))),
            (bits < 8, lambda: _coloured(encoded, _parts_of_bytes(encoded))),
            (tf.equal(bits, 32), lambda: _of_fours(encoded)),
        ],
        default=lambda: tf.io.decode_bmp(encoded),
    )


def _of_fours(encoded):
    """Pixels of four bytes, of which TensorFlow takes the last for alpha."""
    image = tf.io.decode_bmp(encoded)
    channels = tf.where(image_headers.bmp_has_alpha(encoded), 4, 3)
    return image[..., :channels]


def _coloured(encoded, numbers):
    """The colours of a table by their uint8 numbers `(height, width)`."""
    table = image_headers.bmp_table(encoded)
    return tf.gather(table, tf.cast(numbers, tf.int32))


def _bytes_each(encoded):
    # TensorFlow takes the numbers of a table's colours for grey.
    return tf.io.decode_bmp(encoded)[..., 0]


def _parts_of_bytes(encoded):
    """Numbers of less than 8 bits; the highest bits of a byte come first."""
    bits = tf.cast(image_headers.bmp_form(encoded)[3], tf.int32)
    rows, width = _rows(encoded, tf.uint8)
    places = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
    parts = tf.bitwise.right_shift(rows[..., tf.newaxis], places)
    parts &= tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.uint8)
    return tf.reshape(parts, [tf.shape(rows)[0], -1])[:, :width]


def _of_pairs(encoded):
    """Pixels of two bytes: 5 bits for blue, 5 or 6 for green, 5 for red."""
    rows, width = _rows(encoded, tf.uint16)
    pixels = tf.cast(rows[:, :width], tf.int32)
    of_green = tf.where(image_headers.bmp_has_more_green(encoded), 6, 5)

    def channel(place, bits):
        most = tf.bitwise.left_shift(1, bits) - 1
        value = tf.bitwise.right_shift(pixels, place) & most
        return tf.cast(value * 255 // most, tf.uint8)

    red, green, blue = channel(5 + of_green, 5), channel(5, of_green), channel(0, 5)
    return tf.stack([red, green, blue], -1)


def _rows(encoded, kind):
    """`(rows, width)`: whole rows of integers, from the top, and how many pixels each.

    Rows are filled up to a multiple of four bytes.
    """
    start, width, height, bits = image_headers.bmp_form(encoded)
    bytes_ = (width * bits + 31) // 32 * 4
    count = tf.abs(height)
    start = tf.minimum(start, tf.cast(tf.strings.length(encoded), tf.int64))
    content = tf.strings.substr(encoded, start, count * bytes_)
    values = tf.io.decode_raw(content, kind, little_endian=True)
    rows = tf.reshape(values, [count, bytes_ // kind.size])
    return tf.cond(height > 0, lambda: rows[::-1], lambda: rows), width

"""What the headers of image files say, before anything is decoded.

A file of some kilobytes can claim any size, and a decoder believes it. So images of
more than `MAX_PIXELS` are refused by their headers. Their pixels take 300 MB in RGB,
800 MB in RGBA of 16 bits.
"""

import tensorflow as tf

MAX_PIXELS = 100_000_000
MOVES = "an animated WebP file, which TensorFlow does not read safely"
MASKS = "a BMP file of 16 or 32 bits whose colours are not in the usual order"
PACKED = "a compressed BMP file; save it as PNG"
TOO_LARGE = f"too large: more than {MAX_PIXELS // 10**6} megapixels"
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG"
_GIF = b"GIF8"
_BMP = b"BM"
_PLAIN, _BY_MASKS = 0, 3  # How pixels of a BMP file are packed.
# Red, green and blue of pixels of 32 bits, and of 16.
_USUAL_MASKS = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
# Alpha of 32 bits, behind those three in headers of so many bytes and more.
_ALPHA_MASK = b"\0\0\0\xff"
_ALPHA_PLACE = 66
_WITH_ALPHA = 56
_MASKS_565 = b"\0\xf8\0\0\xe0\x07\0\0\x1f\0\0\0"
_MASKS_555 = b"\0\x7c\0\0\xe0\x03\0\0\x1f\0\0\0"


def _starts_with(encoded, magic):
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def is_jpeg(encoded):
    """Whether the bytes (scalar string) are those of a JPEG file."""
    return _starts_with(encoded, _JPEG)


def is_bmp(encoded):
    """Whether the bytes (scalar string) are those of a BMP file."""
    return _starts_with(encoded, _BMP)


def is_png(encoded):
    """Whether the bytes (scalar string) are those of a PNG file."""
    return _starts_with(encoded, _PNG)


def png_has_alpha(encoded):
    """Whether a PNG file (scalar string) has an alpha channel, by its colour type.

    Palettes and single colours that are transparent do not count.
    """
    color_type = _pair(encoded, 24, tf.uint8)[1]
    return tf.equal(color_type, 4) | tf.equal(color_type, 6)


def png_form(encoded):
    """Width, height, bits per value and colour type of a PNG file (scalar string).

    Four int32.
    """
    size = _pair(encoded, 16, tf.int32, little_endian=False)
    return [tf.cast(x, tf.int32) for x in (*size, *_pair(encoded, 24, tf.uint8))]


def size(encoded, otherwise):
    """Height and width of a JPEG or PNG file (scalar string), int32 `(2,)`.

    Args:
        encoded: an image file that can be read.
        otherwise: function of nothing that gives them for files of other kinds.
    """
    return tf.case(
        [
            (is_jpeg(encoded), lambda: tf.image.extract_jpeg_shape(encoded)[:2]),
            (is_png(encoded), lambda: tf.stack(png_form(encoded)[1::-1])),
        ],
        default=otherwise,
    )


def is_webp(encoded):
    """Whether the bytes (scalar string) are those of a WebP file."""
    return _starts_with(encoded, b"RIFF") & tf.equal(_four(encoded, 8), b"WEBP")


def _four(encoded, place):
    """Four bytes, fewer where the file ends before."""
    return tf.strings.substr(encoded, tf.minimum(place, tf.strings.length(encoded)), 4)


def _pair(encoded, place, kind, little_endian=True):
    """Two integers of a header."""
    # What lies behind the end is an empty string here, an error below: the message of
    # `substr` quotes the bytes, on which Python fails.
    place = tf.minimum(place, tf.strings.length(encoded))
    part = tf.strings.substr(encoded, place, 2 * kind.size)
    found = tf.io.decode_raw(part, kind, little_endian=little_endian)
    return tf.unstack(tf.ensure_shape(tf.cast(found, tf.int64), [2]))


def refuse_large(encoded, width, height):
    """`encoded`, unless an image of this size is too large to be decoded.

    Raises:
        tf.errors.InvalidArgumentError: when run, with `TOO_LARGE` in it.
    """
    width, height = (tf.abs(tf.cast(side, tf.int64)) for side in (width, height))
    fits = width * height <= MAX_PIXELS  # Sides have at most 32 bits.
    check = tf.debugging.Assert(fits, [f"{TOO_LARGE}; width, height:", width, height])
    with tf.control_dependencies([check]):
        return tf.identity(encoded)


def _png_header(encoded):
    return encoded, *_pair(encoded, 16, tf.int32, little_endian=False)


def _bmp_header(encoded):
    # The oldest kind has a header of 12 bytes and sides of 16 bits.
    old = tf.equal(_pair(encoded, 14, tf.uint16)[0], 12)
    width, height = tf.cond(
        old,
        lambda: _pair(encoded, 18, tf.uint16),
        lambda: _pair(encoded, 18, tf.int32),
    )
    bits, packing = _pair(encoded, 28, tf.uint16)[0], _pair(encoded, 30, tf.uint16)[0]
    masked = ~old & tf.equal(packing, _BY_MASKS)
    deep, middle = tf.equal(bits, 32), tf.equal(bits, 16)

    def usual():
        masks = _bmp_masks(encoded)
        of_16 = tf.reduce_any(tf.equal(masks, [_MASKS_565, _MASKS_555]))
        found = tf.where(deep, tf.equal(masks, _USUAL_MASKS), of_16)
        check = tf.debugging.Assert(found, [MASKS])
        with tf.control_dependencies([check]):
            return tf.identity(encoded)

    known = old | tf.equal(packing, _PLAIN) | tf.equal(packing, _BY_MASKS)
    check = tf.debugging.Assert(known, [PACKED])
    with tf.control_dependencies([check]):
        masked &= deep | middle
    return tf.cond(masked, usual, lambda: encoded), width, height


def bmp_form(encoded):
    """Where the pixels of a BMP file (scalar string) begin, and what they are.

    Four int64: the first byte, width, height (less than 0 where the upper row comes
    first) and bits per pixel.
    """
    start, _ = _pair(encoded, 10, tf.int32)
    bits, _ = _pair(encoded, 28, tf.uint16)
    return [start, *_pair(encoded, 18, tf.int32), bits]


def bmp_has_more_green(encoded):
    """Whether a BMP file of 16 bits per pixel has 6 of them for green, and not 5."""
    masked = tf.equal(_pair(encoded, 30, tf.uint16)[0], _BY_MASKS)
    return masked & tf.equal(_bmp_masks(encoded), _MASKS_565)


def bmp_has_alpha(encoded):
    """Whether the fourth byte of a BMP file of 32 bits per pixel is alpha.

    It is unused, and mostly 0, where the header has no mask for it.
    """
    header, _ = _pair(encoded, 14, tf.int32)
    masked = tf.equal(_pair(encoded, 30, tf.uint16)[0], _BY_MASKS)
    place = tf.minimum(_ALPHA_PLACE, tf.strings.length(encoded))
    mask = tf.strings.substr(encoded, place, len(_ALPHA_MASK))
    return (header >= _WITH_ALPHA) & masked & tf.equal(mask, _ALPHA_MASK)


def _bmp_masks(encoded):
    """Which bits of a pixel are red, green and blue; some bytes of an unmasked file."""
    place = tf.minimum(54, tf.strings.length(encoded))
    return tf.strings.substr(encoded, place, len(_USUAL_MASKS))


def bmp_table(encoded):
    """The colours of a file of at most 8 bits per pixel, uint8 `(colours, 3)`."""
    header = tf.cast(_pair(encoded, 14, tf.int32)[0], tf.int32)
    used = tf.cast(_pair(encoded, 46, tf.int32)[0], tf.int32)
    bits = tf.cast(bmp_form(encoded)[3], tf.int32)
    most = tf.bitwise.left_shift(1, bits)
    used = tf.where((used > 0) & (used < most), used, most)
    bytes_ = tf.io.decode_raw(
        tf.strings.substr(encoded, 14 + header, 4 * used), tf.uint8
    )
    return tf.reshape(bytes_, [-1, 4])[:, 2::-1]  # They lie as blue, green, red.


def _webp_header(encoded):
    """Sides of a still image, of the three kinds; an animation is refused.

    TensorFlow 2.20 unpacks frames without alpha into three channels of memory as
    four: it writes beyond the end.
    """

    def lossy():  # 14 bits each; the others are scaling hints.
        return [side % 2**14 for side in _pair(encoded, 26, tf.uint16)]

    def lossless():  # A byte, then 14 bits each, packed, counted from 0.
        low, high = _pair(encoded, 21, tf.uint16)
        bits = low + high * 2**16
        return [bits % 2**14 + 1, bits // 2**14 % 2**14 + 1]

    def extended():  # 24 bits each, counted from 0, after flags and three bytes.
        flags = _pair(encoded, 20, tf.uint8)[0]
        still = tf.debugging.Assert(flags // 2 % 2 < 1, [MOVES])
        low, middle = _pair(encoded, 24, tf.uint16)
        high = _pair(encoded, 26, tf.uint16)[1]
        with tf.control_dependencies([still]):
            width = low + middle % 2**8 * 2**16
            return [width + 1, middle // 2**8 + high * 2**8 + 1]

    kind = _four(encoded, 12)
    width, height = tf.cond(
        tf.equal(kind, b"VP8X"),
        extended,
        lambda: tf.cond(tf.equal(kind, b"VP8L"), lossless, lossy),
    )
    return encoded, width, height


def _gif_header(encoded):
    """The first frame alone: TensorFlow would unpack all of them, then keep one."""
    data = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)

    def after_table(place, flags):  # A colour table of 2, 4, … 256 colours, or none.
        size = tf.bitwise.left_shift(3, (flags & 7) + 1)
        return place + tf.where(flags > 127, size, 0)

    def after_blocks(place):  # Each block is led by its size; one of size 0 ends them.
        (last,) = tf.while_loop(
            lambda p: data[p] > 0, lambda p: (p + data[p] + 1,), [place]
        )
        return last + 1

    (frame,) = tf.while_loop(
        lambda p: tf.equal(data[p], 0x21),  # An extension.
        lambda p: (after_blocks(p + 2),),
        [after_table(13, data[10])],
    )
    end = after_blocks(after_table(frame + 10, data[frame + 9]) + 1)
    first = tf.strings.join([tf.strings.substr(encoded, 0, end), b";"])
    canvas = _pair(encoded, 6, tf.uint16)
    sides = _pair(encoded, frame + 5, tf.uint16)
    return first, *(tf.maximum(a, b) for a, b in zip(canvas, sides))


def limited(encoded):
    """An image file, unless its header says that it is too large to be decoded.

    Args:
        encoded: scalar string tensor: JPEG, PNG, BMP, GIF, WebP, or anything else,
            which stays as it is.

    Returns:
        `encoded`; of a GIF the first frame alone.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a larger image than
            `MAX_PIXELS`, a header that is cut short, or an animated WebP file.
    """

    def header(kinds):
        if not kinds:
            return encoded, tf.constant(0, tf.int64), tf.constant(0, tf.int64)
        (matches, read), *others = kinds
        return tf.cond(
            matches(encoded),
            lambda: read(encoded),
            lambda: header(others),
        )

    def jpeg_header(encoded):
        shape = tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)
        return encoded, shape[1], shape[0]

    found = header(
        [
            (is_jpeg, jpeg_header),
            (is_png, _png_header),
            (is_bmp, _bmp_header),
            (lambda file: _starts_with(file, _GIF), _gif_header),
            (is_webp, _webp_header),
        ]
    )
    return refuse_large(*found)

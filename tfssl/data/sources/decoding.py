"""From the bytes of an image file to pixels: the whole of it, or what its crops need.

The larger a photograph, the less of it is used. Of a JPEG file (but the smallest) only
the rectangle that holds all crops is decoded, and where every crop has more pixels to
spare, libjpeg makes it smaller by 2, 4 or 8 as it decodes: each pixel is then the mean
of a square of those in the file. All other kinds of files are decoded whole.
"""

import functools

import numpy as np
import tensorflow as tf

from tfssl.data.sources import bmp, image_headers

# ITU-R BT.601 luma, the grey of PIL, torchvision and `tf.image`.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# A crop that is made smaller by the decoder keeps this many times the pixels, in both
# directions, that the resize after it makes of it. PIL's `thumbnail` has the same.
KEPT = 2
# JPEG images up to this side are decoded whole: a rectangle's first and last column
# have no neighbours to take their colours from, and there is next to nothing to gain.
WHOLE = 64
_RATIOS = (1, 2, 4, 8)


def _to_channels(image, channels):
    """Brings a decoded image to `channels` by repeating or averaging (luma).

    Alpha is left out, and where four channels are wanted, opaque if there is none.
    """
    have = tf.shape(image)[2]
    if channels == 1:
        luma = tf.constant(LUMA[:, np.newaxis])
        rgb = tf.cast(image[..., :3], tf.float32)
        gray = lambda: tf.tensordot(rgb, luma, [[2], [0]])  # noqa: E731
        value = tf.cond(have >= 3, gray, lambda: rgb[..., :1])
        return tf.cast(tf.round(value), image.dtype)
    grown = tf.cond(have == 1, lambda: tf.repeat(image, 3, 2), lambda: image)
    if channels == 4:
        opaque = tf.fill(
            tf.shape(image[..., :1]), tf.constant(image.dtype.max, image.dtype)
        )
        grown = tf.concat([grown, opaque], 2)
    return grown[..., :channels]


def _decode_jpeg(encoded, channels, decode_to):
    """`decode_to(channels)`; inks (CMYK) go to grey by way of RGB."""
    if channels == 3:
        return decode_to(3)
    return tf.cond(
        tf.equal(tf.image.extract_jpeg_shape(encoded)[2], 4),
        lambda: _to_channels(decode_to(3), channels),
        lambda: decode_to(channels),
    )


def _step(spare):
    """Index of the largest of `_RATIOS` that is not above `spare`."""
    return tf.reduce_sum(tf.cast(spare >= _RATIOS[1:], tf.int32))


def step_of_image(shape, side):
    """How far `decode` makes a JPEG file smaller: 0 for not at all.

    Args:
        shape: int32 `(2,)`, the image's height and width.
        side: as for `decode`.
    """
    return _step(tf.reduce_min(shape) // int(KEPT * side))


def step_of_crops(boxes, sizes):
    """How far `decode_window` makes a JPEG file smaller: 0 for not at all.

    Args:
        boxes: what its `boxes_of` gave.
        sizes: as for `decode_window`.
    """
    needed = np.array([[int(KEPT * size)] for size in sizes], np.int32)
    return _step(tf.reduce_min(boxes[:, 2:] // needed))


def _switched(step, decode_by):
    """`decode_by(ratio)` for an index from `_step`, or for None the whole size."""
    if step is None:
        return decode_by(1)
    return tf.switch_case(step, [functools.partial(decode_by, r) for r in _RATIOS])


def _decode_png(encoded, channels, dtype):
    """A PNG file, of 8 or 16 bits, to `dtype`."""
    read = functools.partial(tf.io.decode_png, encoded, dtype=dtype)
    if channels != 4:
        return read(channels)
    # TensorFlow gives palettes of 16 colours an alpha of 15, not of 255.
    return tf.cond(
        image_headers.png_has_alpha(encoded),
        lambda: read(4),
        lambda: _to_channels(read(3), 4),
    )


def _decode_other(encoded, channels):
    """GIF (first frame), BMP, JPEG, WebP, to 8 bits."""
    # WebP not by an operation of its own: that is new in TensorFlow 2.20, and a server
    # of an older version would load no graph that holds it.
    read = functools.partial(tf.io.decode_image, encoded, expand_animations=False)
    # It makes no RGB of WebP and BMP with alpha, and no grey of some kinds.
    image = tf.case(
        [
            (image_headers.is_bmp(encoded), lambda: bmp.decode(encoded)),
            (image_headers.is_webp(encoded), lambda: read(channels=0)),
        ],
        default=lambda: read(channels=3),
    )
    return _to_channels(image, channels)


def _decode_any(encoded, channels, dtype):
    """PNG, GIF (first frame), BMP, JPEG, WebP; the type is read from the bytes."""
    if tf.executing_eagerly():
        return _decode_by_type(encoded, channels, dtype)
    return _traced_once(channels, dtype)(tf.ensure_shape(encoded, []))


@functools.cache
def _traced_once(channels, dtype):
    """`_decode_by_type` for all graphs of a process: it is most of what they hold."""
    decode = functools.partial(_decode_by_type, channels=channels, dtype=dtype)
    return tf.function(
        decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )


def _decode_by_type(encoded, channels, dtype):
    encoded = image_headers.limited(encoded)

    def other():
        image = _decode_other(encoded, channels)
        # An 8-bit value v stands for 257 v of 65,535, as in a PNG file; `decode_image`
        # makes 256 v of it.
        return tf.cast(image, dtype) * 257 if dtype == tf.uint16 else image

    image = tf.cond(
        image_headers.is_png(encoded),
        lambda: _decode_png(encoded, channels, dtype),
        other,
    )
    image.set_shape([None, None, channels])
    return image


def decode(encoded, channels, dtype=tf.uint8, side=None):
    """Decodes one image file held in a string.

    Args:
        encoded: scalar string tensor: JPEG, PNG, GIF (its first frame), BMP or WebP
            (no animation), told apart by its first bytes, never by a file name. The
            pixels are taken as they are stored: an EXIF orientation is ignored, as
            by TensorFlow, PIL and torchvision.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA; opaque where a file has no alpha).
        dtype: `tf.uint8`, or `tf.uint16` to keep the depth of 16-bit PNG. 8-bit
            files are then stretched to the 16-bit range.
        side: None for the image as it is; or how many pixels of its shorter side are
            of use. An 8-bit JPEG file (grey or RGB) is then made smaller as it is
            decoded, by the largest of 2, 4 and 8 that leaves `KEPT * side` pixels;
            each side is divided and rounded up.

    Returns:
        Tensor `(height, width, channels)` of `dtype`.

    Raises:
        tf.errors.InvalidArgumentError: when run, for bytes that are no image, and for
            images of more than `image_headers.MAX_PIXELS`, by their header.
    """
    dtype = tf.as_dtype(dtype)

    def jpeg():
        shape = tf.image.extract_jpeg_shape(encoded)
        limited = image_headers.refuse_large(encoded, shape[1], shape[0])

        def by(ratio):
            return _decode_jpeg(
                limited,
                channels,
                lambda wanted: tf.io.decode_jpeg(limited, wanted, ratio=ratio),
            )

        step = None
        if side is not None:
            step = step_of_image(shape[:2], side)
        return _switched(step, by)

    def other():
        return _decode_any(encoded, channels, dtype)

    if dtype == tf.uint8 and channels in (1, 3):
        image = tf.cond(image_headers.is_jpeg(encoded), jpeg, other)
    else:
        image = other()
    image.set_shape([None, None, channels])
    return image


def decode_window(encoded, channels, dtype, boxes_of, sizes=None):
    """Decodes only the rectangle of an image that holds all its crops.

    JPEG skips what lies outside at a fraction of the cost; other types, and JPEG files
    up to `WHOLE` pixels, are decoded whole. Either way the boxes count from the
    returned array's corner.

    With `sizes`, an 8-bit JPEG file (grey or RGB) is made smaller as it is decoded, by
    the largest of 2, 4 and 8 that leaves every crop `KEPT` times its view's size in
    both directions. The crops stay where they are to half a pixel of the smaller image,
    a quarter of one of the view. What changes is the filter: pixels between those that
    the resize reads are averaged into them, not left out. Without such a ratio the
    result is what it is without `sizes`.

    Args:
        encoded: scalar string tensor.
        channels: channels of the result.
        dtype: `tf.uint8` or `tf.uint16`.
        boxes_of: function `(height, width) -> (boxes, 4)` int32 tensor of
            `[top, left, height, width]` inside the image.
        sizes: None, or for each box the side in pixels of the square view that it
            will be resized to.

    Returns:
        `(image, boxes)`.

    Raises:
        tf.errors.InvalidArgumentError: as for `decode`.
    """
    dtype = tf.as_dtype(dtype)

    def whole():
        image = _decode_any(encoded, channels, dtype)
        shape = tf.shape(image)
        return image, boxes_of(shape[0], shape[1])

    def window():
        shape = tf.image.extract_jpeg_shape(encoded)
        limited = image_headers.refuse_large(encoded, shape[1], shape[0])
        boxes, step = boxes_of(shape[0], shape[1]), None
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        whole = tf.reduce_max(shape[:2]) <= WHOLE
        if sizes is not None:
            step = step_of_crops(boxes, sizes)
            ratio = tf.gather(_RATIOS, step)
            low, high = (low + ratio // 2) // ratio, (high + ratio // 2) // ratio
            whole &= step == 0
        corner = tf.where(whole, 0, tf.reduce_min(low, 0))
        end = tf.where(whole, shape[:2], tf.reduce_max(high, 0))
        around = tf.concat([corner, end - corner], 0)

        def by(ratio):
            return _decode_jpeg(
                limited,
                channels,
                lambda wanted: tf.image.decode_and_crop_jpeg(
                    limited, around, wanted, ratio=ratio
                ),
            )

        return _switched(step, by), tf.concat([low - corner, high - low], 1)

    if dtype == tf.uint8 and channels in (1, 3):
        image, boxes = tf.cond(image_headers.is_jpeg(encoded), window, whole)
    else:
        image, boxes = whole()
    image.set_shape([None, None, channels])
    return image, boxes

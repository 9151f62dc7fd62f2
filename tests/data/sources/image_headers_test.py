"""Sizes that files claim, against the limit; files are made by hand and by PIL."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.data.sources.bmp_test import bmp_by_hand, noise
from tfssl.data.sources import decoding, image_headers


def _chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, depth=8):
    header = struct.pack(">IIBBBBB", width, height, depth, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + _chunk(b"IEND", b"")
    )


def jpeg(width, height):
    """A small JPEG file whose frame header claims another size."""
    file = tf.io.encode_jpeg(np.zeros((8, 8, 3), np.uint8)).numpy()
    place = file.index(b"\xff\xc0") + 5  # After marker, length and precision.
    return file[:place] + struct.pack(">HH", height, width) + file[place + 4 :]


def bmp(width, height, old=False):
    if old:
        header = struct.pack("<IHHHH", 12, width, height, 1, 24)
    else:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    start = struct.pack("<2sIHHI", b"BM", 14 + len(header) + 64, 0, 0, 14 + len(header))
    return start + header + b"\0" * 64


def bmp_of_masks(order):
    """One pixel of the bytes 10, 20, 30, 40; `order`: which are red, green and blue."""
    masks = b"".join(struct.pack("<I", 255 << 8 * place) for place in order)
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 32, 3, *[0] * 5) + masks
    start = struct.pack("<2sIHHI", b"BM", 18 + len(header), 0, 0, 14 + len(header))
    return start + header + bytes([10, 20, 30, 40])


def gif(canvas, frame, comment=b""):
    """A GIF with one frame of a few bytes, whatever size it claims."""
    table = bytes([0, 0, 0, 255, 255, 255])
    file = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + table
    if comment:
        file += b"\x21\xfe" + bytes([len(comment)]) + comment + b"\0"
    file += b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0)
    return file + b"\x02\x02\x44\x01\0\x3b"


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def ways():
    """Every way in: the decoders of training and evaluation, eager and in a graph."""

    def whole(height, width):
        return tf.stack([[0, 0, height, width]])

    return [
        lambda e: decoding.decode(e, 3),
        tf.function(lambda e: decoding.decode(e, 3)),
        tf.function(lambda e: decoding.decode(e, 3, tf.uint16)),
        tf.function(lambda e: decoding.decode(e, 3, side=4)),
        tf.function(lambda e: decoding.decode_window(e, 3, tf.uint8, whole)[0]),
        tf.function(lambda e: decoding.decode_window(e, 3, tf.uint8, whole, [4])[0]),
    ]


@pytest.mark.parametrize(
    "file",
    [
        png(20_000, 20_000),
        png(100_000_001, 1),
        png(2**31 - 1, 2**31 - 1),
        png(60_000, 30_000, depth=16),
        jpeg(65_500, 65_500),
        jpeg(10_001, 10_000),
        bmp(20_000, -20_000),
        bmp(2**31 - 1, 2**31 - 1),
        bmp(60_000, 60_000, old=True),
        gif((60_000, 60_000), (2, 2)),
        gif((2, 2), (60_000, 60_000)),
        gif((60_000, 60_000), (2, 2), b"a comment first"),
    ],
    ids=lambda file: f"{file[:4]}",
)
def test_files_that_claim_too_much_are_refused(file, ways):
    assert len(file) < 1000
    for decode in ways:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            decode(tf.constant(file))
        assert image_headers.TOO_LARGE in str(caught.value)


@pytest.mark.parametrize(
    "file", [b"\x89PNG\r", b"GIF89a\1", b"BM", b"\xff\xd8\xff", b""]
)
def test_headers_that_are_cut_short_are_no_images(file, ways):
    for decode in ways:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            decode(tf.constant(file))
        assert image_headers.TOO_LARGE not in str(caught.value)


def test_a_bmp_file_of_other_colours_is_no_image(ways):
    for decode in ways:
        usual = decode(tf.constant(bmp_of_masks((2, 1, 0))))
        deep = 257 if usual.dtype == tf.uint16 else 1
        np.testing.assert_array_equal(usual // deep, [[[30, 20, 10]]])
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            decode(tf.constant(bmp_of_masks((0, 1, 2))))
        assert image_headers.MASKS in str(caught.value)


@pytest.mark.parametrize("file, reason", [
    (bmp_by_hand(8, noise(40), table=noise(1024), packing=1), image_headers.PACKED),
    (bmp_by_hand(4, noise(40), table=noise(64), packing=2), image_headers.PACKED),
    (bmp_by_hand(16, noise(80), masks=(0x1F, 0x3E0, 0x7C00)), image_headers.MASKS),
])  # fmt: skip
def test_bmp_files_of_other_kinds_are_no_images(file, reason, ways):
    for decode in ways:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            decode(tf.constant(file))
        assert reason in str(caught.value)


def test_a_bmp_file_that_names_more_colours_than_it_has_is_no_image():
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).quantize(16)
    file = bytearray(file_of(image, "BMP"))
    assert decoding.decode(bytes(file), 3).shape == (4, 4, 3)
    file[46] = 2
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode(bytes(file), 3)


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 12)
    for height, fine in ((4, True), (5, False)):
        file = tf.io.encode_png(np.zeros((height, 3, 3), np.uint8))
        if fine:
            assert decoding.decode(file, 3).shape == (4, 3, 3)
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
                decoding.decode(file, 3)


def test_of_a_gif_the_first_frame_is_left(make_images):
    images = [Image.fromarray(image) for image in make_images(5, size=40)]
    rest = {"save_all": True, "append_images": images[1:], "comment": b"c" * 700}
    file = file_of(images[0], "GIF", **rest)
    first = image_headers.limited(tf.constant(file)).numpy()
    assert len(first) < len(file) / 3
    with Image.open(io.BytesIO(first)) as image:
        assert image.n_frames == 1
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoding.decode(tf.constant(file), 3), expected)
    with Image.open(io.BytesIO(file)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "none"])
def test_other_files_stay_as_they_are(kind, make_images):
    file = b"no image"
    if kind != "none":
        file = file_of(Image.fromarray(make_images(1)[0]), kind)
    assert image_headers.limited(tf.constant(file)).numpy() == file

"""BMP files of few bits, made by hand, against PIL."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data.sources import decoding


def bmp_by_hand(bits, pixels, *, table=b"", masks=(), height=5, packing=None, width=7):
    """A BMP file of these rows of bytes."""
    packing = (3 if masks else 0) if packing is None else packing
    after = table + b"".join(struct.pack("<I", mask) for mask in masks)
    sizes = [0, 0, 0, len(table) // 4, 0]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, *sizes)
    place = 14 + len(header) + len(after)
    start = struct.pack("<2sIHHI", b"BM", place + len(pixels), 0, 0, place)
    return start + header + after + pixels


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).tobytes()


# 5 rows of 7 pixels, each filled up to four bytes.
FILES = {
    "1 bit": bmp_by_hand(1, noise(5 * 4), table=noise(8, 1)),
    "4 bits": bmp_by_hand(4, noise(5 * 4), table=noise(64, 1)),
    "4 bits, upper row first": bmp_by_hand(
        4, noise(5 * 4), table=noise(64, 1), height=-5
    ),
    "16 bits": bmp_by_hand(16, noise(5 * 16)),
    "16 bits by masks": bmp_by_hand(16, noise(5 * 16), masks=(0x7C00, 0x3E0, 0x1F)),
    "16 bits, 6 for green": bmp_by_hand(
        16, noise(5 * 16), masks=(0xF800, 0x7E0, 0x1F), height=-5
    ),
}


@tf.function
def in_a_graph(file):
    return decoding.decode(file, 3)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_few_bits_have_the_pixels_that_pil_reads(kind):
    file = FILES[kind]
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    for decode in (in_a_graph, lambda file: decoding.decode(file, 3)):
        found = decode(tf.constant(file)).numpy()
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(tf.constant(file[:-1]))


def of_32_bits(header, *masks, packing):
    """A BMP file of 5 x 7 pixels of four bytes, by its kind of header."""
    file = bmp_by_hand(32, noise(5 * 28), masks=masks, packing=packing)
    after = 54 + 4 * len(masks)
    filling = b"\0" * (header - (40 + 4 * len(masks) if header > 40 else 40))
    sizes = struct.pack("<IHHII", 0, 0, 0, after + len(filling), header)
    return file[:2] + sizes + file[18:after] + filling + file[after:]


_USUAL = 255 << 16, 255 << 8, 255


@pytest.mark.parametrize(
    "file, has_alpha",
    [
        (of_32_bits(40, packing=0), False),
        (of_32_bits(40, *_USUAL, packing=3), False),
        (of_32_bits(52, *_USUAL, packing=3), False),
        (of_32_bits(56, *_USUAL, 0, packing=3), False),
        (of_32_bits(108, *_USUAL, 0, packing=3), False),
        (of_32_bits(124, *_USUAL, 255 << 24, packing=0), False),
        (of_32_bits(56, *_USUAL, 255 << 24, packing=3), True),
        (of_32_bits(108, *_USUAL, 255 << 24, packing=3), True),
        (of_32_bits(124, *_USUAL, 255 << 24, packing=3), True),
    ],
)
def test_the_fourth_byte_is_alpha_where_the_header_says_so(file, has_alpha):
    image = Image.open(io.BytesIO(file))
    assert image.mode == ("RGBA" if has_alpha else "RGB")
    found = decoding.decode(tf.constant(file), 4).numpy()
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGBA")))
    assert (found[..., 3].min() < 255) == has_alpha


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_files_that_pil_writes_have_their_pixels(mode):
    pixels = np.frombuffer(noise(9 * 11 * 3), np.uint8).reshape(9, 11, 3)
    image, file = Image.fromarray(pixels).convert(mode), io.BytesIO()
    image.save(file, "BMP")
    found = in_a_graph(tf.constant(file.getvalue())).numpy()
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))

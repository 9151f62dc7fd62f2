import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from tfssl.data.sources import decoding, image_headers


def smooth(height, width, channels=3, seed=0):
    """A picture without sharp edges, which JPEG keeps well; uint8."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, size=(4, 4, channels))
    factors = (height / 4, width / 4, 1)
    return np.clip(ndimage.zoom(small, factors, order=1), 0, 255).astype(np.uint8)


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind, tolerance", [("PNG", 0), ("BMP", 0), ("JPEG", 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_reads_what_pil_reads(kind, tolerance, channels):
    image = smooth(20, 30)
    data = encoded(image, kind)
    found = decoding.decode(tf.constant(data), channels).numpy()
    read = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(read).reshape(20, 30, channels).astype(int)
    # Grey: PIL and TensorFlow round luma differently, by one step.
    assert np.abs(found - expected).max() <= tolerance + (channels == 1)


def test_graphs_share_the_trace_of_all_kinds_but_jpeg(monkeypatch):
    file, traced, limited = encoded(smooth(5, 6), "BMP"), [], image_headers.limited
    monkeypatch.setattr(
        image_headers, "limited", lambda x: traced.append(x) or limited(x)
    )
    shapes = [], None  # The second file is not known to be one.
    decode = [
        tf.function(
            lambda x: decoding.decode(x, 3),
            input_signature=[tf.TensorSpec(shape, tf.string)],
            autograph=False,
        )
        for shape in shapes
    ]
    found = [of_graph(file) for of_graph in decode]
    assert len(traced) <= 1  # None where an earlier test has decoded in a graph.
    for image in found:
        np.testing.assert_array_equal(image, decoding.decode(tf.constant(file), 3))


def test_decode_brings_grey_files_to_three_channels_and_drops_alpha():
    gray = smooth(8, 8, 1)
    for kind in ("PNG", "BMP"):
        found = decoding.decode(tf.constant(encoded(gray, kind)), 3).numpy()
        np.testing.assert_array_equal(found, np.repeat(gray, 3, axis=2))
    rgba = smooth(8, 8, 4)
    found = decoding.decode(tf.constant(encoded(rgba, "PNG")), 3).numpy()
    np.testing.assert_array_equal(found, rgba[..., :3])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_decode_stretches_eight_bits_to_sixteen(kind, channels):
    # A folder of both depths has one range: v of 255 is 257 v of 65,535 in every file.
    data = tf.constant(encoded(smooth(20, 30, 3), kind))
    eight = decoding.decode(data, channels).numpy()
    sixteen = decoding.decode(data, channels, tf.uint16)
    assert sixteen.dtype == tf.uint16 and eight.max() > 0
    np.testing.assert_array_equal(sixteen.numpy(), eight.astype(int) * 257)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decode_window_gives_the_same_crops_as_a_whole_decode(kind):
    data = tf.constant(encoded(smooth(64, 80), kind))
    boxes = np.array([[17, 9, 20, 30], [33, 25, 24, 16]], np.int32)
    whole = decoding.decode(data, 3).numpy().astype(int)
    image, moved = decoding.decode_window(data, 3, tf.uint8, lambda h, w: boxes)
    if kind == "JPEG":  # From row 17 to 57, column 9 to 41.
        assert image.shape == (40, 32, 3)

    def cut(pixels, box):
        top, left, height, width = box
        return pixels[top : top + height, left : left + width].astype(int)

    for box, moved_box in zip(boxes, np.asarray(moved)):
        # JPEG interpolates chroma from beyond the window in a whole decode.
        difference = np.abs(cut(image.numpy(), moved_box) - cut(whole, box)).max()
        assert difference <= (3 if kind == "JPEG" else 0)


# Made smaller as it is decoded ----------------------------------------------------


def pil_reduced(file, ratio, mode="RGB"):
    """PIL's own scaled decode, or the whole image where `ratio` is 1."""
    with Image.open(io.BytesIO(file)) as image:
        if ratio > 1:
            image.draft(mode, [side // ratio for side in image.size])
        return np.asarray(image.convert(mode)).astype(int)


def means(image, ratio):
    """Means of squares of pixels; the edge is repeated, as JPEG encoders do."""
    padding = [(0, -side % ratio) for side in image.shape[:2]]
    image = np.pad(image, padding + [(0, 0)], mode="edge")
    height, width = image.shape[0] // ratio, image.shape[1] // ratio
    shape = (height, ratio, width, ratio, image.shape[-1])
    return image.reshape(shape).mean((1, 3))


# A shorter side of 333 pixels, and what the rule makes of it: 2 * side * ratio <= 333.
RATIOS = [(None, 1), (84, 1), (83, 2), (42, 2), (41, 4), (21, 4), (20, 8), (1, 8)]


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_makes_large_jpegs_smaller(channels, subsampling):
    image = smooth(333, 501)
    file = encoded(image, "JPEG", quality=95, subsampling=subsampling)
    mode = "RGB" if channels == 3 else "L"
    whole = decoding.decode(file, channels).numpy()
    accurate = pil_reduced(file, 1, mode).reshape(whole.shape)
    for side, ratio in RATIOS:
        found = decoding.decode(file, channels, side=side).numpy().astype(float)
        assert found.shape == (-(-333 // ratio), -(-501 // ratio), channels)
        if ratio == 1:
            np.testing.assert_array_equal(found, whole)
        # libjpeg is PIL's too. At half the size, PIL interpolates colours in another
        # way, and the whole image by another DCT.
        expected = pil_reduced(file, ratio, mode).reshape(found.shape)
        exact = ratio > 2 or ratio == 2 and (subsampling == 0 or channels == 1)
        assert np.abs(found - expected).max() <= (0 if exact else 7)
        # TensorFlow decodes the whole by the fast DCT: 1 off in the mean, PIL does not.
        difference = np.abs(found - means(accurate, ratio))
        assert difference.max() <= 7 and difference.mean() <= (1.3 if ratio == 1 else 1)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_inks_too_are_made_smaller(ratio):
    file = io.BytesIO()
    Image.fromarray(smooth(80, 96, 4), "CMYK").save(file, "JPEG", quality=95)
    for channels in (1, 3):
        whole = decoding.decode(file.getvalue(), channels).numpy()
        found = decoding.decode(file.getvalue(), channels, side=40 // ratio).numpy()
        # The product of ink and black is not that of their means.
        assert found.shape == (80 // ratio, 96 // ratio, channels)
        assert np.abs(found - means(whole, ratio)).mean() <= 3


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF"])
def test_other_files_keep_their_size(kind):
    file = encoded(smooth(80, 96), kind)
    boxes = np.array([[0, 0, 80, 96]], np.int32)
    whole = decoding.decode(file, 3)
    np.testing.assert_array_equal(decoding.decode(file, 3, side=1), whole)
    image, found = decoding.decode_window(file, 3, tf.uint8, lambda h, w: boxes, [1])
    np.testing.assert_array_equal(image, whole)
    np.testing.assert_array_equal(found, boxes)


@pytest.mark.parametrize("channels, dtype", [(4, tf.uint8), (3, tf.uint16)])
def test_alpha_and_sixteen_bits_keep_their_size(channels, dtype):
    file = encoded(smooth(80, 96), "JPEG")
    whole = decoding.decode(file, channels, dtype)
    np.testing.assert_array_equal(decoding.decode(file, channels, dtype, side=1), whole)


def _window(file, boxes, sizes):
    boxes = np.array(boxes, np.int32)
    decode = tf.function(
        lambda e: decoding.decode_window(e, 3, tf.uint8, lambda h, w: boxes, sizes)
    )
    return [x.numpy() for x in decode(tf.constant(file))]


def test_a_window_keeps_twice_the_pixels_of_every_view():
    file = encoded(smooth(333, 501), "JPEG", quality=95)
    boxes = [[10, 21, 300, 222], [101, 3, 64, 160]]
    plain, at = _window(file, boxes, None)
    for sizes, ratio in [
        ((55, 16), 2),  # 222 / 110 = 2.02; 64 / 32 = 2.
        ((56, 16), 1),  # 222 / 112 = 1.98.
        ((55, 17), 1),
        ((27, 8), 4),  # 4.1; 4.
        ((27, 9), 2),  # 4.1; 3.6.
        ((1, 1), 8),
    ]:
        image, found = _window(file, boxes, sizes)
        # Rows 10 to 310, columns 3 to 243, of a whole decode.
        low, high = np.array([10, 3]), np.array([310, 243])
        size = np.floor(high / ratio + 0.5) - np.floor(low / ratio + 0.5)
        assert image.shape == (*size, 3)
        if ratio == 1:
            np.testing.assert_array_equal(image, plain)
            np.testing.assert_array_equal(found, at)
            continue
        reduced = decoding.decode(file, 3, side=166 // ratio).numpy().astype(int)
        for (top, left, height, width), box in zip(found, np.array(boxes)):
            edges = np.array([box[:2], box[:2] + box[2:]]) / ratio
            corner = np.floor(low / ratio + 0.5) + [top, left]
            got = np.array([corner, corner + [height, width]])
            # No edge moves by more than half a pixel of the smaller image.
            assert np.abs(got - edges).max() <= 0.5
            a, b = got.astype(int)
            expected = reduced[a[0] : b[0], a[1] : b[1]]
            cut = image[top : top + height, left : left + width].astype(int)
            # Colours at the window's edge are interpolated from inside it.
            assert np.abs(cut - expected).max() <= 3


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("height, width", [(128, 136), (129, 143), (135, 129)])
def test_boxes_stay_inside_and_reach_the_edge(height, width, ratio):
    file = encoded(smooth(height, width), "JPEG")
    boxes = [[0, 0, height, width], [height - 16, width - 16, 16, 16]]
    image, found = _window(file, boxes, [8 // ratio] * 2)
    assert (found[:, :2] >= 0).all() and (found[:, 2:] >= 16 // ratio).all()
    np.testing.assert_array_equal((found[:, :2] + found[:, 2:]).max(0), image.shape[:2])
    # A last pixel that stands for less than half a square may be left out.
    for side, of in zip(image.shape, (height, width)):
        assert side in (of // ratio, -(-of // ratio))

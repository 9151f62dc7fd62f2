"""Any image file or array through the whole path: `open_source`, then both datasets.

What comes out is compared with the pixels that PIL reads: views and preprocessing are
set up to change nothing.
"""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from tests.fixtures import cases_together
from tfssl import data
from tfssl.data import pipeline, preprocessing, views
from tfssl.data.sources import decoding, image_headers
from tfssl.data.views import batched

_SIZE = 16


def smooth(channels, height=_SIZE, width=_SIZE, seed=0):
    """Without sharp edges, so that lossy files keep it; uint8."""
    small = np.random.default_rng(seed).uniform(40, 215, (3, 3, channels))
    factors = (height / 3, width / 3, 1)
    return ndimage.zoom(small, factors, order=1).round().astype(np.uint8)


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _file(kind, mode, **options):
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "P": 3}[mode]
    pixels = smooth(channels).squeeze()
    if mode == "P":
        image = Image.fromarray(pixels).quantize(16)
    else:
        image = Image.fromarray(pixels, mode)
    return file_of(image, kind, **options)


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by 90 degrees.
    return _file("JPEG", "RGB", exif=exif, quality=100)


def _gif():
    frames = [Image.fromarray(smooth(3, seed=s)).quantize(64) for s in (0, 1, 2)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


# Name, file, and how far from PIL's pixels it may be, of 255. TensorFlow decodes JPEG
# by the fast DCT, which is up to 6 away from the accurate one at this quality.
FILES = {
    "grey.jpg": (_file("JPEG", "L", quality=100), 7),
    "rgb.jpg": (_file("JPEG", "RGB", quality=100), 7),
    "cmyk.jpg": (_file("JPEG", "CMYK", quality=100), 7),
    "progressive.jpg": (_file("JPEG", "RGB", quality=100, progressive=True), 7),
    "turned.jpg": (_turned(), 7),
    "grey.png": (_file("PNG", "L"), 0),
    "grey_alpha.png": (_file("PNG", "LA"), 0),
    "rgb.png": (_file("PNG", "RGB"), 0),
    "rgba.png": (_file("PNG", "RGBA"), 0),
    "palette.png": (_file("PNG", "P"), 0),
    "interlaced.png": (_file("PNG", "RGB", interlace=1), 0),
    "grey.bmp": (_file("BMP", "L"), 0),
    "palette.bmp": (_file("BMP", "P"), 0),
    "rgb.bmp": (_file("BMP", "RGB"), 0),
    "frames.gif": (_gif(), 0),
    "lossless.webp": (_file("WEBP", "RGB", lossless=True), 0),
    "lossy.webp": (_file("WEBP", "RGB", quality=100), 0),
    "alpha.webp": (_file("WEBP", "RGBA", lossless=True), 0),
    "lossy_alpha.webp": (_file("WEBP", "RGBA", quality=100), 0),
    "a_png_called.jpg": (_file("PNG", "RGB"), 0),
}


def expected(file, channels):
    """PIL's pixels; alpha is dropped, not laid over a background."""
    with Image.open(io.BytesIO(file)) as image:
        if image.mode in ("P", "LA", "CMYK"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    if channels == 1:
        luma = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
        return luma[..., None]
    if channels == 4 and pixels.shape[-1] == 3:
        opaque = np.full((*pixels.shape[:2], 1), 255)
        return np.concatenate([pixels, opaque], -1)
    return pixels[..., :channels].astype(float)


def still(size=_SIZE):
    """A view that takes the whole image as it is."""
    whole = dict(area=(1.0, 1.0), aspect=(1.0, 1.0), crop_fallback="whole")
    return views.View(size=size, flip=0.0, jitter=0.0, **whole)


def both_ways(source, count, size=_SIZE):
    """`(count, size, size, channels)` by index, of training and of evaluation."""
    found = np.zeros((2, count, size, size, source.channels))
    (batch,) = pipeline.multiview(source, [still(size)], batch_size=count).take(1)
    found[0, batch["index"]] = batch["views"]["view_0"]
    path = preprocessing.Preprocessing(
        size=size, channels=source.channels, max_value=source.max_value
    )
    (batch,) = pipeline.labeled(source, path, batch_size=count)
    found[1, batch["index"]] = batch["image"]
    return found


def folder(path, files):
    for name, content in files.items():
        (path / name).write_bytes(content)
    return sorted(files)


@pytest.mark.parametrize("channels, small", [(1, False), (3, True), (4, False)])
def test_files_of_every_kind_give_the_pixels_that_pil_reads(
    channels, small, tmp_path, monkeypatch
):
    if not small:  # As for views of more than 64 pixels.
        monkeypatch.setattr(batched, "SMALL", 4)
    # With alpha wanted, the two that PIL reads as two channels say nothing.
    files = {k: v for k, (v, _) in FILES.items() if channels < 4 or "grey_a" not in k}
    names = folder(tmp_path, files)
    source = data.open_source(str(tmp_path), channels=channels)
    assert source.num_images == len(names)
    for way in both_ways(source, len(names)):
        for name, found in zip(names, way):
            difference = np.abs(found * 255 - expected(files[name], channels)).max()
            # Luma is rounded to a whole value, by PNG's decoder cut.
            tolerance = FILES[name][1] + (1.0 if channels == 1 else 1e-3)
            assert difference <= tolerance, (name, difference)


def test_sixteen_bit_files_keep_their_depth_where_wanted(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (_SIZE, _SIZE)).astype("u2")
    deep_file = tf.io.encode_png(deep[..., None]).numpy()
    names = folder(tmp_path, {"a.png": deep_file, "b.webp": FILES["lossless.webp"][0]})
    source = data.open_source(str(tmp_path), channels=1, bit_depth=16)
    for way in both_ways(source, len(names)):
        np.testing.assert_allclose(way[0][..., 0], deep / 65535, atol=2e-5)
        stretched = expected(FILES["lossless.webp"][0], 1) / 255
        np.testing.assert_allclose(way[1], stretched, atol=0.51 / 255)
    source = data.open_source(str(tmp_path), channels=1)
    for way in both_ways(source, len(names)):  # Eight bits: the high byte.
        np.testing.assert_allclose(way[0][..., 0], (deep // 256) / 255, atol=1e-5)


_KINDS = [("uint8", 1), ("uint16", 2), ("float32", 3), ("uint8", 4), ("uint16", 13)]


@pytest.mark.parametrize(
    "dtype, channels, small",
    [
        # Each kind in one way; in the other they are slow tests.
        cases_together.slow_where(small == number % 2, *kind, small)
        for number, kind in enumerate(_KINDS)
        for small in (True, False)
    ],
)
def test_arrays_of_one_to_thirteen_channels(dtype, channels, small, monkeypatch):
    if not small:
        monkeypatch.setattr(batched, "SMALL", 4)
    white = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    images = np.random.default_rng(0).random((4, _SIZE, _SIZE, channels))
    images = (images * white).astype(dtype)
    for way in both_ways(data.open_source(images), 4):
        np.testing.assert_allclose(way, images / np.float64(white), atol=2e-6)


def test_images_of_odd_shapes_give_views_of_the_right_size(tmp_path):
    files = {}
    for height, width in [(1, 1), (1, 40), (50, 1), (3, 2), (2, 10_000)]:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
        for kind in ("JPEG", "PNG", "BMP", "WEBP"):
            files[f"{height}_{width}.{kind.lower()}"] = file_of(image, kind)
    count = len(folder(tmp_path, files))
    source = data.open_source(str(tmp_path))
    recipe = [data.recipes.SIMCLR[0].scaled(96), data.recipes.MOCO_V2[0].scaled(32)]
    (batch,) = pipeline.multiview(source, recipe, batch_size=count).take(1)
    assert sorted(batch["index"].numpy()) == list(range(count))
    for view, size in (("view_0", 96), ("view_1", 32)):
        assert batch["views"][view].shape == (count, size, size, 3)
        assert np.isfinite(batch["views"][view]).all()
    path = preprocessing.Preprocessing(size=32, crop=0.875, antialias=True)
    (batch,) = pipeline.labeled(source, path, batch_size=count)
    assert batch["mask"].numpy().all() and np.isfinite(batch["image"]).all()


def test_small_arrays_and_one_pixel_wide_ones():
    for height, width, channels in [(1, 1, 3), (5, 3, 13), (1, 40, 1), (3000, 1, 2)]:
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels))
        source = data.open_source(images.astype(np.uint8))
        recipe = data.recipes.SIMCLR.scaled(72)[:1]
        (batch,) = pipeline.multiview(source, recipe, batch_size=2).take(1)
        for view in batch["views"].values():
            assert view.shape == (2, 72, 72, channels)
            # Inside of the range, if not of its own pixels: contrast was changed.
            assert 0 <= tf.reduce_min(view) <= tf.reduce_max(view) <= 1


def test_steps_that_need_rgb_are_left_out_with_one_line(caplog):
    images = np.random.default_rng(0).random((2, 8, 8, 13)).astype(np.float32)
    with caplog.at_level("INFO", logger="absl"):
        recipe = data.recipes.SIMCLR.scaled(8)
        pipeline.multiview(data.open_source(images), recipe, batch_size=2)
    (line,) = [m for m in caplog.messages if "RGB" in m]
    assert "has 13 channels: saturation, hue, gray need RGB and are left out" in line


def test_files_without_height_are_unreadable(tmp_path):
    files = {"a.png": FILES["rgb.png"][0]}
    files["b.png"] = files["a.png"][:20] + bytes(4) + files["a.png"][24:]
    jpeg = FILES["rgb.jpg"][0]
    place = jpeg.index(b"\xff\xc0") + 5
    files["c.jpg"] = jpeg[:place] + bytes(2) + jpeg[place + 2 :]
    folder(tmp_path, files)
    bad = pipeline.BadFiles(0.9, log=False)
    path = preprocessing.Preprocessing(size=_SIZE)
    source = data.open_source(str(tmp_path))
    (batch,) = pipeline.labeled(source, path, batch_size=3, bad_files=bad)
    assert batch["mask"].numpy().tolist() == [True, False, False]
    assert [name[-5:] for name in bad.listed] == ["b.png", "c.jpg"]


def test_a_dataset_names_its_image_without_height():
    def images():
        for height in (8, 8, 0):
            yield np.zeros((height, 8, 3), np.uint8)

    spec = tf.TensorSpec([None, 8, 3], tf.uint8)
    dataset = tf.data.Dataset.from_generator(images, output_signature=spec)
    with pytest.raises(ValueError, match="Image 2 of tf.data has no pixels; leave it"):
        data.open_source(dataset)


# Large photographs ------------------------------------------------------------------


def _ramps(height, width):
    """Red tells the column, green the row: what is where in a view; uint8."""
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.stack([x / width, y / height, 0 * x + 0.5], -1) * 255
    return Image.fromarray(image.round().astype(np.uint8))


def _never_smaller(monkeypatch):
    monkeypatch.setattr(decoding, "KEPT", 10**6)


def test_views_of_large_photographs_stay_where_they_are(tmp_path, monkeypatch):
    sides = [(901, 1203), (703, 510)]
    files = [file_of(_ramps(*s), "JPEG", quality=98) for s in sides]
    folder(tmp_path, {f"{i}.jpg": files[i % 2] for i in range(8)})
    source = data.open_source(str(tmp_path))
    recipe = [still(size).scaled(area=(0.05, 1.0), flip=0.5) for size in (24, 10)]

    def made():
        (batch,) = pipeline.multiview(source, recipe, batch_size=8, seed=3).take(1)
        return batch["views"]

    smaller = made()
    monkeypatch.setattr(decoding, "KEPT", 10**6)  # Which no file has.
    for view, whole in zip(smaller.values(), made().values()):
        difference = 255 * np.abs(view - whole)
        # A view has at most 255 steps on its side, so a quarter of a pixel is few of
        # them; three more for JPEG.
        assert 0 < difference.max() <= 0.25 * 255 / view.shape[1] + 3


@pytest.mark.parametrize("crop", [1.0, 0.7])
def test_evaluation_of_large_photographs(crop, tmp_path):
    sides = [(901, 1203), (703, 510), (8, 3000)]
    files = [file_of(_ramps(*s), "JPEG", quality=98) for s in sides]
    folder(tmp_path, {f"{i}.jpg": file for i, file in enumerate(files)})
    source = data.open_source(str(tmp_path))
    path = preprocessing.Preprocessing(size=16, crop=crop, antialias=True)
    (batch,) = pipeline.labeled(source, path, batch_size=3)
    for file, (height, width), row in zip(files, sides, batch["image"]):
        found = path.apply_encoded(tf.constant(file)).numpy()
        np.testing.assert_allclose(row, found, atol=1e-6)
        whole = path.apply(path.decode(tf.constant(file)))
        if height == 8:  # Nothing to spare.
            np.testing.assert_array_equal(found, whole)
            continue
        assert path.decode(tf.constant(file), side=path.side).shape[0] < height
        side = crop * min(height, width) if crop < 1 else np.array([width, height])
        pixel = np.ones(2) * side / 16 / [width, height] * 255  # Columns and rows.
        difference = 255 * np.abs(found - whole).max((0, 1))
        # Half a pixel of the smaller image where it was cut, half where it ends.
        assert (difference[:2] <= 0.5 * pixel + 2).all() and difference[2] <= 2


def test_training_without_augmentation_has_the_path_of_evaluation(tmp_path):
    file = file_of(_ramps(703, 510), "JPEG", quality=98)
    folder(tmp_path, {"a.jpg": file})
    source = data.open_source(str(tmp_path))
    (batch,) = pipeline.multiview(source, [still()], batch_size=1, augment=False).take(
        1
    )
    plain = preprocessing.Preprocessing(size=_SIZE).apply_encoded(tf.constant(file))
    np.testing.assert_allclose(batch["views"]["view_0"][0], plain, atol=1e-6)


# WebP -------------------------------------------------------------------------------


def webp(kind, width, height, flags=0):
    """The header of a still or moving WebP file, and nothing after it."""
    if kind == b"VP8X":
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = bytes([flags, 0, 0, 0]) + sides
    elif kind == b"VP8L":
        bits = (width - 1) | (height - 1) << 14
        body = b"\x2f" + struct.pack("<I", bits)
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * 8
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "file",
    [
        webp(b"VP8 ", 16_383, 16_383),
        webp(b"VP8L", 16_384, 16_384),
        webp(b"VP8L", 16_384, 6_104),  # 100,007,936 pixels.
        webp(b"VP8X", 2**24, 7),
        webp(b"VP8X", 7, 2**24),
    ],
)
def test_webp_files_that_claim_too_much_are_refused(file):
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        image_headers.limited(tf.constant(file))


@pytest.mark.parametrize(
    "file",
    [
        webp(b"VP8 ", 10_000, 10_000),
        webp(b"VP8L", 16_384, 6_103),
        webp(b"VP8X", 100_000_000 // 7, 7),
        webp(b"VP8X", 7, 100_000_000 // 7),
    ],
)
def test_webp_files_up_to_the_limit_are_left_to_the_decoder(file):
    assert image_headers.limited(tf.constant(file)).numpy() == file


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_animated_webp_is_refused_before_it_is_decoded(channels, tmp_path):
    # TensorFlow 2.20 writes beyond its buffer for animations without alpha.
    frames = [Image.fromarray(smooth(3, seed=seed)) for seed in (0, 1)]
    moving = file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    names = folder(tmp_path, {"a.png": FILES["rgb.png"][0], "b.webp": moving})
    source = data.open_source(str(tmp_path), channels=channels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated WebP"):
        source.decode(source.read(tf.constant(names.index("b.webp"), tf.int64)))
    bad = pipeline.BadFiles(0.5, log=False)
    path = preprocessing.Preprocessing(size=_SIZE, channels=channels)
    (batch,) = pipeline.labeled(source, path, batch_size=2, bad_files=bad)
    assert batch["mask"].numpy().tolist() == [True, False]
    assert bad.count == 1 and image_headers.MOVES in bad.listed[0]

"""TIFF files: read through Pillow, pixel by pixel, or named where it is missing."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tfssl.data import bad_files, pipeline, sources
from tfssl.data.sources import image_headers, tiff
from tfssl.data.views import specs
from tfssl.tasks.make_tfrecords import make_tfrecords


@pytest.fixture
def photos(tmp_path, make_images, write_image):
    folder = tmp_path / "photos"
    for i, image in enumerate(make_images()):
        name = f"{i}.tif" if i % 2 else f"{i}.png"
        write_image(folder / name, image, "TIFF" if i % 2 else "PNG")
    return folder


def test_pixels_are_those_of_the_file(photos, make_images, pixels):
    source = sources.open_source(photos)
    assert source.num_images == 6
    for i, image in enumerate(make_images()):
        np.testing.assert_array_equal(pixels(source, i), image)


@pytest.mark.parametrize(
    "mode, channels", [("L", 1), ("RGBA", 4), ("1", 1), ("P", 3), ("CMYK", 3)]
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_kinds_of_pixels(tmp_path, make_images, pixels, mode, channels, compression):
    kind = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = PIL.Image.fromarray(make_images(1)[0]).convert(mode)
    other = PIL.Image.new(mode, (8, 8))
    image.save(
        tmp_path / "a.TIFF", save_all=True, append_images=[other],
        compression=compression,
    )  # fmt: skip
    wanted = np.asarray(image.convert(kind)).reshape(8, 8, channels)
    found = pixels(sources.open_source(tmp_path, channels=channels), 0)
    np.testing.assert_array_equal(found, wanted)


def test_sixteen_bits_stay(tmp_path, make_images, pixels):
    image = make_images(1, channels=1, dtype=np.uint16)[0]
    PIL.Image.fromarray(image[..., 0]).save(tmp_path / "a.tif")
    source = sources.open_source(tmp_path, channels=1, bit_depth=16)
    np.testing.assert_array_equal(pixels(source, 0), image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode, compression", [("RGB", None), ("I;16", "tiff_lzw")])
def test_an_orientation_is_ignored(tmp_path, pixels, orientation, mode, compression):
    shape, dtype = ((5, 7, 3), np.uint8) if mode == "RGB" else ((5, 7, 1), np.uint16)
    rng, most = np.random.default_rng(0), np.iinfo(dtype).max
    image = rng.integers(0, most, shape, dtype)
    PIL.Image.fromarray(image.squeeze()).save(
        tmp_path / "a.tif", tiffinfo={0x0112: orientation}, compression=compression
    )
    with PIL.Image.open(tmp_path / "a.tif") as file:
        assert file.getexif().get(0x0112, 1) == orientation
    source = sources.open_source(
        tmp_path, channels=shape[-1], bit_depth=8 * image.itemsize
    )
    np.testing.assert_array_equal(pixels(source, 0), image)


def test_an_orientation_in_the_words_of_xmp_is_ignored(tmp_path, pixels):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    words = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    PIL.Image.fromarray(image).save(tmp_path / "a.tif", tiffinfo={700: words})
    np.testing.assert_array_equal(pixels(sources.open_source(tmp_path), 0), image)


def test_an_image_fits_its_map(tmp_path, pixels):
    rng = np.random.default_rng(0)
    marks = rng.integers(0, 2, (5, 7), np.uint8)
    photo = np.repeat(255 * marks[..., np.newaxis], 3, axis=-1)
    PIL.Image.fromarray(photo).save(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    PIL.Image.fromarray(marks).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("path,channels:objects:map2\na.tif,a.png\n")
    found = pixels(sources.open_source(tmp_path / "a.csv"), 0)
    np.testing.assert_array_equal(found[..., 4], found[..., 0])


def test_what_cannot_be_read_is_named_and_left_out(photos, monkeypatch):
    whole = (photos / "1.tif").read_bytes()
    (photos / "1.tif").write_bytes(whole[: len(whole) // 2])
    PIL.Image.fromarray(np.zeros((8, 8), np.float32)).save(photos / "3.tif")
    PIL.Image.new("RGB", (60, 60)).save(photos / "5.tif")
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 1000)
    source = sources.open_source(photos)
    bad = bad_files.BadFiles(1.0)
    view = specs.View(size=8, area=(1.0, 1.0), jitter=0.0)
    batches = pipeline.multiview(source, [view], batch_size=3, bad_files=bad)
    for batch in batches.take(4):
        assert set(batch["index"].numpy()) <= {0, 2, 4}
    names = "\n".join(bad.listed)
    assert bad.count == 3
    assert "3.tif" in names and tiff.NOT_FOR_PNG in names
    assert "1.tif" in names and "5.tif" in names and "megapixels" in names


def test_records_hold_png_files(photos, tmp_path, make_images, pixels):
    make_tfrecords(
        str(photos), str(tmp_path / "records"), name="all", num_shards=1, verbose=0
    )
    source = sources.open_source(f"tfrecord:{tmp_path / 'records' / 'all.json'}")
    for i, image in enumerate(make_images()):
        np.testing.assert_array_equal(pixels(source, i), image)
    assert b"PyFunc" not in _graph(source)
    assert b"PyFunc" in _graph(
        sources.open_source(photos)
    )  # A data service refuses it.


def _graph(source):
    dataset = tf.data.Dataset.range(2).map(source.read)
    variant = tf.data.experimental.to_variant(dataset)
    return tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy()


def test_without_pillow(photos, monkeypatch, caplog):
    monkeypatch.setattr(tiff, "available", lambda: False)
    with caplog.at_level("WARNING", "absl"):
        source = sources.open_source(photos)
    assert source.num_images == 3
    assert "(.tif 3); TIFF needs Pillow: pip install 'tfssl[tiff]'." in caplog.text
    (photos / "list.csv").write_text("path\n0.png\n1.tif\n")
    with pytest.raises(ValueError, match=r"list.csv holds TIFF files, which need Pill"):
        sources.open_source(photos / "list.csv")

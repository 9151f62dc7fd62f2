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

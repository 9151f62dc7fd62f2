import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tfssl import data
from tfssl.data import bad_files, preprocessing, sources, views
from tfssl.data.sources import kept
from tfssl.tasks import embed, make_tfrecords, pretrain

_HEADER = "path,channels:depth:gray,label,channels:objects:map3,channels:next:rgb\n"
_COUNT, _SIDE = 6, 12


@pytest.fixture
def rows(tmp_path, write_image):
    """`(path of the manifest, images, depths, objects)`; the next image is the other.

    Depth has 16 bits. Line i + 2 of the manifest has image i.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_COUNT, _SIDE, _SIDE, 3), np.uint8)
    depths = rng.integers(0, 65536, (_COUNT, _SIDE, _SIDE), np.uint16)
    objects = rng.choice(np.uint8([0, 1, 2, 255]), (_COUNT, _SIDE, _SIDE))
    text = _HEADER
    for i in range(_COUNT):
        write_image(tmp_path / f"{i}.png", images[i])
        write_image(tmp_path / "depth" / f"{i}.png", depths[i])
        write_image(tmp_path / "objects" / f"{i}.png", objects[i])
        text += f"{i}.png,depth/{i}.png,{i % 2},objects/{i}.png,{i ^ 1}.png\n"
    path = tmp_path / "list.csv"
    path.write_text(text)
    return path, images, depths, objects


def _expected(images, depths, objects, i):
    maps = [np.where(objects[i] == c, 65535, 0) for c in range(3)]
    parts = [images[i] * np.uint16(257), depths[i][..., None]]
    parts += [np.stack(maps, -1), images[i ^ 1] * np.uint16(257)]
    return np.concatenate(parts, -1)


def test_files_of_a_row_are_stacked_behind_its_image(rows, pixels):
    path, *given = rows
    source = sources.open_source(path, bit_depth=16)
    assert (source.channels, source.dtype) == (10, "uint16")
    assert source.labels.tolist() == [0, 1] * 3
    for i in range(_COUNT):
        np.testing.assert_array_equal(pixels(source, i), _expected(*given, i))
    part = source.subset([4, 1])
    np.testing.assert_array_equal(pixels(part, 1), _expected(*given, 1))
    # Behind red, green, blue and depth.
    maps = {"channels:objects:map3": (4, ("0", "1", "2"))}
    assert source.maps == part.maps == maps
    assert not sources.open_source(path, channels=3).maps


def test_json_lines_and_the_image_alone(rows, pixels, tmp_path):
    _, images, *_ = rows
    path = tmp_path / "list.jsonl"
    lines = [
        f'{{"path": "{i}.png", "channels:next:rgb": "{i ^ 1}.png"}}'
        for i in range(_COUNT)
    ]
    path.write_text("\n".join(lines))
    for channels, expected in (
        (None, np.concatenate([images[2], images[3]], -1)),
        (6, np.concatenate([images[2], images[3]], -1)),
        (3, images[2]),
    ):
        source = sources.open_source(path, channels=channels)
        np.testing.assert_array_equal(pixels(source, 2), expected)
    with pytest.raises(ValueError, match="channels=5 received.*have 6.*or 1, 3 or 4"):
        sources.open_source(path, channels=5)


@pytest.mark.parametrize("bits, most", [(1, 1), (2, 3), (4, 15), (8, 19), (16, 19)])
def test_classes_of_files_of_few_and_many_bits(tmp_path, pixels, bits, most):
    """Files of fewer bits than 8 are stretched by decoders; their numbers are not."""
    classes = np.arange(64).reshape(8, 8) % (most + 1)
    kind = {1: "L", 2: "L", 4: "L", 8: "L", 16: "I;16"}[bits]
    dtype = np.uint16 if bits == 16 else np.uint8
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    if bits < 8:
        (tmp_path / "m.png").write_bytes(_few_bits(classes, bits))
    else:
        Image.fromarray(classes.astype(dtype)).convert(kind).save(tmp_path / "m.png")
    (tmp_path / "l.csv").write_text("path,channels:m:map20\na.png,m.png\n")
    found = pixels(sources.open_source(tmp_path / "l.csv"), 0)[..., 3:]
    np.testing.assert_array_equal(found, 255 * np.eye(20, dtype=np.uint8)[classes])


def _few_bits(values, bits):
    """A grey PNG file of 1, 2 or 4 bits, which Pillow does not write."""

    def chunk(kind, content):
        body = kind + content
        return (
            struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
        )

    height, width = values.shape
    bit = (values[..., None] >> np.arange(bits)[::-1]) & 1
    lines = np.packbits(bit.reshape(height, -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_jpeg_files(tmp_path, pixels, write_image):
    rng = np.random.default_rng(0)
    color, gray = (
        rng.integers(0, 256, shape, np.uint8) for shape in ((8, 9, 3), (8, 9))
    )
    write_image(tmp_path / "a.png", color)
    write_image(tmp_path / "c.jpg", color, "JPEG")
    write_image(tmp_path / "g.jpg", gray, "JPEG")
    path = tmp_path / "l.csv"
    path.write_text("path,channels:g:gray,channels:c:rgb\na.png,g.jpg,c.jpg\n")
    images = {n: sources.open_source(tmp_path, channels=n) for n in (1, 3)}
    expected = [pixels(images[n], i) for i, n in ((0, 3), (2, 1), (1, 3))]
    expected = np.concatenate(expected, -1)
    for bit_depth, scale in ((8, 1), (16, np.uint16(257))):
        found = pixels(sources.open_source(path, bit_depth=bit_depth), 0)
        np.testing.assert_array_equal(found, expected * scale)


def test_tiff_files_of_16_bits_and_of_classes(tmp_path, pixels, write_image):
    rng = np.random.default_rng(0)
    depth = rng.integers(0, 65536, (8, 9), np.uint16)
    classes = rng.integers(0, 4, (8, 9), np.uint8)
    write_image(tmp_path / "a.png", np.zeros((8, 9, 3), np.uint8))
    write_image(tmp_path / "d.tif", depth, "TIFF")
    write_image(tmp_path / "m.tif", classes, "TIFF")
    path = tmp_path / "l.csv"
    path.write_text("path,channels:d:gray,channels:m:map4\na.png,d.tif,m.tif\n")
    found = pixels(sources.open_source(path, bit_depth=16), 0)
    np.testing.assert_array_equal(found[..., 3], depth)
    np.testing.assert_array_equal(found[..., 4:], 65535 * np.eye(4)[classes])


def test_views_share_crop_and_flip_and_equal_those_of_arrays(rows):
    """Of files, and of files that are kept."""
    path, *given = rows
    source = sources.open_source(path, bit_depth=16)
    arrays = np.stack([_expected(*given, i) for i in range(_COUNT)])
    recipe = views.recipes.CMC_LAB.scaled(8)
    found = [
        next(iter(data.multiview(kind, recipe, batch_size=_COUNT, seed=3)))
        for kind in (
            source,
            kept.keep(source, 1 << 30),
            sources.open_source(arrays.astype(np.uint16)),
        )
    ]
    for other in found:
        np.testing.assert_array_equal(other["index"], found[0]["index"])
        np.testing.assert_allclose(
            other["views"]["view_0"], found[0]["views"]["view_0"], atol=2e-5
        )
    assert found[0]["views"]["view_0"].shape == (_COUNT, 8, 8, 10)


def test_records_hold_all_channels_as_pixels(rows, tmp_path, pixels):
    path, *given = rows
    index = make_tfrecords.make_tfrecords(
        path, tmp_path / "records", bit_depth=16, num_shards=2, verbose=0
    )
    records = sources.open_source(f"tfrecord:{index}")
    assert records.describe(3) == "3.png" and records.labels.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(pixels(records, 3), _expected(*given, 3))


def test_the_fingerprint_covers_the_further_files(rows, tmp_path, write_image):
    path, *_ = rows

    def marks(**options):
        source = sources.open_source(path, bit_depth=16, **options)
        return source.fingerprint(), source.identity()

    before = marks()
    assert not set(before) & set(marks(channels=3))
    assert marks() == before
    write_image(tmp_path / "depth" / "2.png", np.zeros((_SIDE, _SIDE), np.uint16))
    assert not set(before) & set(marks())


def _others_of(tmp_path, write_image):
    """What may stand in the place of a further file, and why it is refused."""
    grey = np.zeros((_SIDE, _SIDE), np.uint8)
    rgb = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "palette.png")
    numbers = "a map in colours or with a palette; save the numbers of .*"
    Image.fromarray(grey).save(tmp_path / "jpeg.png", "JPEG")
    write_image(tmp_path / "rgb.png", rgb)
    write_image(tmp_path / "small.png", grey[1:])
    write_image(tmp_path / "classes.png", grey + 3)
    (tmp_path / "text.png").write_bytes(b"no image")
    content = (tmp_path / "depth" / "1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    form = r"no PNG, JPEG or TIFF file .* with the channels of its column"
    return [
        ("depth/1.png", "gone.png", "channels:depth:gray .*gone.png: missing"),
        ("depth/1.png", "rgb.png", f"channels:depth:gray .*rgb.png: {form}"),
        ("depth/1.png", "palette.png", f".*palette.png: {form}"),
        ("depth/1.png", "text.png", f".*text.png: {form}"),
        ("depth/1.png", "cut.png", "channels:depth:gray .*cut.png"),
        ("depth/1.png", "small.png", "files of different sizes"),
        ("objects/1.png", "jpeg.png", f".*jpeg.png: {form}"),
        ("objects/1.png", "palette.png", f".*palette.png: {numbers}"),
        ("objects/1.png", "rgb.png", f".*rgb.png: {numbers}"),
        ("objects/1.png", "classes.png", ".*classes.png: a map with values .*"),
        (",0.png", ",depth/0.png", f"channels:next:rgb .*depth/0.png: {form}"),
    ]


@pytest.mark.parametrize("keep", [False, True])
def test_images_with_a_bad_file_are_left_out_counted_and_named(
    rows, tmp_path, write_image, keep
):
    path, images, *_ = rows
    line = path.read_text().split("\n")[2]  # Image 1.
    text, reasons = path.read_text(), {}
    for number, (old, new, reason) in enumerate(_others_of(tmp_path, write_image)):
        image = write_image(tmp_path / f"bad{number}.png", images[1])
        bad = line.replace(old, new).replace("1.png", image.name, 1)
        assert bad != line.replace("1.png", image.name, 1)
        text += f"{bad}\n"
        reasons[str(image)] = reason
    path.write_text(text)
    source = sources.open_source(path, bit_depth=16)
    if keep:
        source = kept.keep(source, 1 << 30)
    collector = bad_files.BadFiles(0.9, log=False)
    size_of = preprocessing.Preprocessing(8, channels=10, max_value=65535.0)
    batches = data.labeled(source, size_of, batch_size=32, bad_files=collector)
    (batch,) = list(batches)
    found = batch["index"].numpy()[batch["mask"].numpy()]
    assert found.tolist() == list(range(_COUNT))
    assert set(collector.files) == set(reasons)
    for name, listed in zip(collector.files, collector.listed, strict=True):
        assert re.fullmatch(rf"{re.escape(name)} \({reasons[name]}\)", listed)


def test_depth_of_16_bits_is_not_cut_to_8(rows):
    path, *_ = rows
    source = sources.open_source(path)
    recipe = views.recipes.CMC_SCENES.scaled(8)
    with pytest.raises(
        ValueError, match=r"depth/0.png: a file of 16 bits, which bit_depth=16 keeps"
    ):
        next(iter(data.multiview(source, recipe, batch_size=2)))


def test_columns_that_are_refused(rows):
    path, *_ = rows
    text = path.read_text()
    for old, new, message in [
        ("depth:gray", "depth:grey", "line 2: the column 'channels:depth:grey'"),
        ("depth:gray", "depth", "expected channels:NAME:KIND with the kind gray"),
        ("map3", "map1", "channels:objects:map1'.*2 to 255"),
        ("map3", "map256", "channels:objects:map256'.*2 to 255"),
        (",depth/3.png", ",", "line 5: channels:depth:gray '', expected the name"),
        (",depth/3.png", ",../3.png", "line 5: '../3.png' lies outside"),
        (",depth/3.png", ",http://a/b.png", "line 5: 'http.* web address"),
    ]:
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            sources.open_source(path)
    path.with_suffix(".jsonl").write_text(
        '{"path": "0.png", "channels:depth:gray": "depth/0.png"}\n{"path": "1.png"}'
    )
    with pytest.raises(ValueError, match=r"line 2: further files \[\], but line 1 has"):
        sources.open_source(path.with_suffix(".jsonl"))


def test_branches_learn_from_them_and_are_judged_by_them(rows, tmp_path):
    """A run as from the scenes; the encoder that leaves takes the same manifest."""
    path, *_ = rows
    pretrain.pretrain(
        path,
        tmp_path / "run",
        method="cmc",
        recipe="cmc_scenes",
        encoder="branches",
        encoder_args={
            "of": "resnet18",
            "width": 1 / 16,
            "stem": "cifar",
            "depth_channel": 3,
            "views": {"ab": (1, 2), "objects": (4, 5, 6), "normals": (10, 11, 12)},
        },
        bit_depth=16,
        image_size=8,
        epochs=1,
        batch_size=2,
        warmup_epochs=0,
        verbose=0,
    )
    found = embed.embed(tmp_path / "run", path, bit_depth=16, verbose=0)
    assert np.isfinite(found.values).all() and len(found.values) == _COUNT

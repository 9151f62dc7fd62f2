"""Records against the images they were made of: pixels, labels, order, resume."""

import functools
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import bad_files, pipeline, preprocessing, sources, views
from tfssl.data.sources import records
from tfssl.data.views import recipes
from tfssl.tasks import make_tfrecords

# 23 images in batches of 4: epochs of 20.
_COUNT, _BATCH = 23, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """23 files of three kinds in class folders, some larger than 30 pixels."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    encode = [tf.io.encode_png, tf.io.encode_jpeg]
    for i in range(_COUNT):
        sides = (50, 20) if i % 4 == 0 else (18, 16)
        image = rng.integers(0, 256, (*sides, 3)).astype(np.uint8)
        path = root / f"class_{i % 3}" / f"{i:02d}.{('png', 'jpg')[i % 2]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode[i % 2](image).numpy())
    return root


def make(data, out, **kwargs):
    return make_tfrecords.make_tfrecords(
        data, str(out), **{"num_shards": 4, "verbose": 0, **kwargs}
    )


@pytest.fixture(scope="module")
def every_form(folder, tmp_path_factory):
    """The same images as a folder, a manifest, records of files, of pixels, foreign."""
    out = tmp_path_factory.mktemp("forms")
    plain = sources.open_source(folder, labels="folders")
    rows = ["path,label"]
    for i in range(_COUNT):
        rows.append(f"{plain.describe(i)},class_{plain.labels[i]}")
    (out / "list.csv").write_text("\n".join(rows))
    files = make(str(folder), out / "files", labels="folders")
    pixels = make(str(folder), out / "pixels", labels="folders", pixels=True)
    return {
        "folder": plain,
        "manifest": sources.open_source(out / "list.csv", root=folder),
        "files": sources.open_source(f"tfrecord:{files}", verify=True),
        "pixels": sources.open_source(f"tfrecord:{pixels}", verify=True),
        "foreign": sources.open_source(f"tfrecord:{out}/files/images-*", verify=True),
    }


def forms(*fast):
    """A test of every form of data but the folder, slow but for these."""
    return pytest.mark.parametrize(
        "form",
        [
            form if form in fast else pytest.param(form, marks=pytest.mark.slow)
            for form in ("manifest", "files", "pixels", "foreign")
        ],
    )


def _recipe(size=8):
    plain = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}
    return recipes.Recipe([views.View(size=size, area=(0.3, 1.0), **plain)], "t")


def _rows(source, batches, **kwargs):
    """A stream's first batches, joined."""
    dataset = pipeline.multiview(
        source, _recipe(), **{"batch_size": _BATCH, "with_labels": True, **kwargs}
    )
    found = [tf.nest.flatten(b) for b in dataset.take(batches).as_numpy_iterator()]
    joined = [np.concatenate(parts) for parts in zip(*found)]
    return tf.nest.pack_sequence_as(dataset.element_spec, joined)


@pytest.fixture(scope="module")
def whole(every_form):
    """`whole(form, batches)`: the stream of a form from its beginning."""
    rows = functools.cache(lambda form: _rows(every_form[form], 13))
    return lambda form, n: tf.nest.map_structure(lambda x: x[: n * _BATCH], rows(form))


@pytest.fixture(scope="module")
def unaugmented(every_form):
    """`unaugmented(form)`: all images of a form without augmentation, made once."""
    one = preprocessing.Preprocessing(size=8)

    @functools.cache
    def images(form):
        batches = pipeline.labeled(every_form[form], one, batch_size=_COUNT)
        return next(batches.as_numpy_iterator())

    return images


def _assert_same(a, b, **tolerance):
    tf.nest.map_structure(
        lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b
    )


@forms("files", "pixels", "foreign")
def test_the_same_images_labels_and_views_from_every_form(
    every_form, whole, unaugmented, form
):
    folder, source = every_form["folder"], every_form[form]
    assert source.num_images == _COUNT and source.random_access
    np.testing.assert_array_equal(source.labels, folder.labels)
    if form != "foreign":
        assert source.class_names == folder.class_names
    for i in range(_COUNT):
        image = source.decode(source.read(tf.constant(i, tf.int64)))
        expected = folder.decode(folder.read(tf.constant(i, tf.int64)))
        np.testing.assert_array_equal(image, expected)
    # A window of a JPEG and the whole of it may differ by the place of the blocks,
    # not by more than rounding.
    atol = 2 / 255 if form == "pixels" else 0
    _assert_same(whole(form, 7), whole("folder", 7), atol=atol, rtol=0)
    _assert_same(unaugmented(form), unaugmented("folder"), atol=0, rtol=0)


# In the third epoch, and in the first.
@forms("files", "pixels")
@pytest.mark.parametrize("start", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_any_start_gives_the_tail_of_the_stream(every_form, whole, form, start):
    tail = _rows(every_form[form], 2, start=start)
    cut = tf.nest.map_structure(lambda x: x[start : start + 8], whole(form, 13))
    _assert_same(tail, cut, atol=0, rtol=0)


@forms("files")
def test_two_workers_together_give_the_global_batch(every_form, whole, form):
    source = every_form[form]
    expected = whole(form, 5)
    assert len(set(expected["index"])) == 20  # Every image at most once per epoch.
    parts = [_rows(source, 5, shard=(worker, 2)) for worker in range(2)]

    def interleaved(a, b):  # Rows 0 and 1 of each batch, then rows 2 and 3.
        both = np.stack([x.reshape(5, 2, *x.shape[1:]) for x in (a, b)], 1)
        return both.reshape(20, *a.shape[1:])

    _assert_same(tf.nest.map_structure(interleaved, *parts), expected, atol=0, rtol=0)


def test_bytes_of_files_stay_as_they_are(every_form):
    source, folder = every_form["files"], every_form["folder"]
    for i in range(_COUNT):
        raw = source.file_of(source.read(tf.constant(i, tf.int64))).numpy()
        with open(folder.describe(i), "rb") as file:
            assert raw == file.read()
        assert source.describe(i) == "/".join(folder.describe(i).split("/")[-2:])


def test_records_are_plain_examples(every_form, folder):
    paths = sorted(every_form["files"]._paths)
    parsed = [
        tf.train.Example.FromString(r.numpy()).features.feature
        for r in tf.data.TFRecordDataset(paths)
    ]
    assert len(parsed) == _COUNT
    first = parsed[0]
    assert first["image/filename"].bytes_list.value[0] == b"class_0/00.png"
    assert first["image/format"].bytes_list.value[0] == b"png"
    assert first["image/height"].int64_list.value[0] == 50
    assert first["image/class/label"].int64_list.value[0] == 0
    assert first["image/class/text"].bytes_list.value[0] == b"class_0"


@pytest.mark.parametrize(
    "channels, dtype",
    [
        pytest.param(1, np.uint8, marks=pytest.mark.slow),
        pytest.param(3, np.uint16, marks=pytest.mark.slow),
        (4, np.uint8),
        pytest.param(13, np.uint16, marks=pytest.mark.slow),
        (13, np.float32),
    ],
)
def test_arrays_of_any_channels_and_depth(tmp_path, channels, dtype):
    rng = np.random.default_rng(channels)
    images = rng.uniform(size=(5, 6, 7, channels))
    if dtype != np.float32:
        images = images * np.iinfo(dtype).max
    images = images.astype(dtype)
    index = make((images, [4, 3, 2, 1, 0]), tmp_path, num_shards=2)
    source = sources.open_source(f"tfrecord:{index}")
    assert source.channels == channels and source.dtype == np.dtype(dtype).name
    assert source.labels.tolist() == [4, 3, 2, 1, 0]
    for i in range(5):
        np.testing.assert_array_equal(source.decode(source.read(i)), images[i])
    arrays = sources.ArraySource(images, source.labels)
    kwargs = {"batch_size": 5}
    _assert_same(_rows(source, 2, **kwargs), _rows(arrays, 2, **kwargs), atol=2e-6)


def test_sixteen_bit_files(tmp_path):
    deep = (np.arange(96, dtype=np.uint16) * 680).reshape(8, 12, 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(tf.io.encode_png(deep).numpy())
    for pixels in (False, True):
        index = make(
            str(tmp_path / "a"),
            tmp_path / f"{pixels}",
            num_shards=1,
            channels=1,
            bit_depth=16,
            pixels=pixels,
        )
        source = sources.open_source(f"tfrecord:{index}")
        assert source.dtype == "uint16"
        np.testing.assert_array_equal(source.decode(source.read(0)), deep)


def test_large_images_are_made_smaller_and_the_others_kept(folder, tmp_path):
    index = make(str(folder), tmp_path, max_side=30, quality=90)
    source = sources.open_source(f"tfrecord:{index}")
    plain = sources.open_source(folder)
    for i in range(_COUNT):
        raw = source.file_of(source.read(tf.constant(i, tf.int64)))
        original = plain.read(tf.constant(i, tf.int64))
        image = plain.decode(original)
        if image.shape[0] <= 30:
            assert raw == original
            continue
        small = tf.image.resize(image, (30, 12), antialias=True)  # 50 x 20, 0.6 of it.
        small = tf.cast(tf.round(small), tf.uint8)
        assert raw == tf.io.encode_jpeg(small, quality=90)


def test_large_images_are_made_smaller_as_pixels(folder, tmp_path):
    index = make(str(folder), tmp_path, max_side=30, pixels=True, labels="folders")
    plain = sources.open_source(folder, labels="folders")
    source = sources.open_source(f"tfrecord:{index}", verify=True)
    np.testing.assert_array_equal(source.labels, plain.labels)
    for i in range(_COUNT):
        image = plain.decode(plain.read(tf.constant(i, tf.int64)))
        if image.shape[0] > 30:
            image = tf.round(tf.image.resize(image, (30, 12), antialias=True))
        found = source.decode(source.read(tf.constant(i, tf.int64)))
        np.testing.assert_array_equal(found, tf.cast(image, tf.uint8))
    stamps = _stamps(tmp_path)
    make(str(folder), tmp_path, max_side=30, pixels=True, labels="folders", quality=1)
    assert {name: content for name, (_, content) in _stamps(tmp_path).items()} == {
        name: content for name, (_, content) in stamps.items()
    }
    with pytest.raises(ValueError, match="other images or options .max_side differ"):
        make(str(folder), tmp_path, max_side=20, pixels=True, labels="folders")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_arrays_of_any_depth_are_made_smaller(dtype, tmp_path):
    images = np.random.default_rng(0).random((3, 20, 50, 5))
    if dtype == np.uint16:
        images = images * 65535
    images = images.astype(dtype)
    index = make(images, tmp_path, num_shards=1, max_side=30)
    source = sources.open_source(f"tfrecord:{index}")
    assert source.dtype == np.dtype(dtype).name and source.channels == 5
    expected = tf.image.resize(images, (12, 30), antialias=True)
    for i in range(3):
        found = source.decode(source.read(tf.constant(i, tf.int64)))
        tolerance = 0.51 if dtype == np.uint16 else 1e-6
        np.testing.assert_allclose(found, expected[i], atol=tolerance)


def test_a_sequence_is_written_in_its_order(tmp_path):
    files = [
        tf.io.encode_png(np.full((4, 4, 3), i, np.uint8)).numpy() for i in range(9)
    ]
    files[2] = b"no image"
    dataset = tf.data.Dataset.from_tensor_slices({"image": files, "label": range(9)})
    index = make(dataset, tmp_path, num_shards=2, max_bad_fraction=0.2)
    source = sources.open_source(f"tfrecord:{index}")
    values = [int(source.decode(source.read(i))[0, 0, 0]) for i in range(8)]
    assert values == source.labels.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]


def _stamps(out):
    return {
        p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(out.iterdir())
    }


def test_a_stopped_run_goes_on_and_a_finished_one_stays(folder, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    make(str(folder), whole, labels="folders")
    expected = {name: content for name, (_, content) in _stamps(whole).items()}
    assert len(expected) == 5 and not [n for n in expected if n.endswith(".part")]

    out = tmp_path / "out"
    write = make_tfrecords.record_writer.example
    seen = []

    def stopping(image, **kwargs):
        seen.append(kwargs["name"])
        if len(seen) == 14:  # In the third shard, of 5, 6, 6 and 6 images.
            raise KeyboardInterrupt
        return write(image, **kwargs)

    monkeypatch.setattr(make_tfrecords.record_writer, "example", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(str(folder), out, labels="folders")
    names = [f"images-0000{i}-of-00004.tfrecord" for i in range(2)]
    left = _stamps(out)
    assert sorted(left) == sorted(names + [f"{name}.json" for name in names])
    (out / "images-00002-of-00004.tfrecord.part").write_bytes(b"half a record")

    seen[:] = [""] * 14
    make(str(folder), out, labels="folders")
    found = _stamps(out)
    assert {name: content for name, (_, content) in found.items()} == expected
    assert len(seen) - 14 == _COUNT - 11  # Two shards were not written again.
    for name in names:
        assert found[name] == left[name]
    with monkeypatch.context() as patch:
        patch.setattr(bad_files, "check", None)
        make(str(folder), out, labels="folders")  # Nothing is left to do, or to try.
    assert _stamps(out) | {"images.json": 0} == found | {"images.json": 0}

    # A shard that was changed is written again.
    damaged = out / names[1]
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"\0" * 9)
    make(str(folder), out, labels="folders")
    assert damaged.read_bytes() == expected[names[1]]
    with pytest.raises(ValueError, match="other images or options .pixels differ"):
        make(str(folder), out, labels="folders", pixels=True)


def test_verify_names_the_file_that_has_changed(folder, tmp_path):
    index = make(str(folder), tmp_path)
    assert make_tfrecords.verify(index).num_images == _COUNT
    shard = tmp_path / "images-00001-of-00004.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    sources.open_source(f"tfrecord:{index}")  # Only asked for, it takes a while.
    with pytest.raises(ValueError, match=r"00001-of-00004.tfrecord has changed"):
        make_tfrecords.verify(index)
    with pytest.raises(
        ValueError, match=r"00001-of-00004.tfrecord holds a record with"
    ):
        make_tfrecords.verify(f"{tmp_path}/images-0*")
    # TensorFlow meets the wrong CRC when the record is read: an unreadable image.
    met = pipeline.BadFiles(max_fraction=0.2)
    source = sources.open_source(f"tfrecord:{index}")
    one = preprocessing.Preprocessing(size=8)
    list(pipeline.labeled(source, one, bad_files=met))
    assert met.count == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_shards": 0}, "num_shards=0 received, expected a whole"),
        ({"num_shards": 24}, "num_shards=24 received for 23 images"),
        ({"quality": 0}, "quality=0"),
        ({"max_side": 0}, "max_side=0"),
        ({"max_side": 9, "channels": 4}, "4 channels, uint8"),
        ({"max_side": 9, "bit_depth": 16}, "3 channels, uint16"),
        ({"name": "a/b"}, "name='a/b' received"),
    ],
)
def test_options_that_do_not_fit(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make(str(folder), tmp_path / "out", **options)
    assert not os.path.exists(tmp_path / "out")


def test_the_index_is_what_its_page_says(every_form, folder, tmp_path):
    index = make(str(folder), tmp_path, labels="folders", name="train")
    with open(index) as file:
        found = json.load(file)
    shards = found.pop("shards")
    assert found.pop("origin")["num_shards"] == 4
    assert found == {
        "format": "tfssl records 1",
        "num_images": _COUNT,
        "channels": 3,
        "dtype": "uint8",
        "pixels": False,
        "class_names": ["class_0", "class_1", "class_2"],
        "images": str(folder),
    }
    for shard in shards:
        path = tmp_path / shard["file"]
        lengths = [len(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
        assert shard["lengths"] == lengths and shard["count"] == len(lengths)
        assert shard["bytes"] == path.stat().st_size
        assert shard["sha256"] == records.sha256(str(path))

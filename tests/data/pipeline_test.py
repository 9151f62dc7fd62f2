import functools
import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import bad_files, pipeline, preprocessing, sources, views
from tfssl.data.views import recipes

# 23 images in batches of 4: epochs of 20, so that 3 images are left out of each.
_COUNT, _BATCH, _EPOCH = 23, 4, 20


def _recipe(size=8, **kwargs):
    # Crops and flips only: the order does not depend on the rest, and tracing does.
    plain = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, **kwargs}
    return recipes.Recipe([views.View(size=size, area=(0.3, 1.0), **plain)] * 2, "t")


@pytest.fixture(autouse=True)
def global_seed():
    yield
    tf.random.set_seed(None)  # As in a fresh process.


def _images(count=_COUNT, channels=3, dtype=np.uint8, size=9):
    rng = np.random.default_rng(count)
    shape = (count, size, size, channels)
    if dtype == np.float32:
        return rng.uniform(size=shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def _array(**kwargs):
    images = _images(**kwargs)
    return sources.ArraySource(images, np.arange(len(images)) * 10)


def _sequential(count=_COUNT, labelled=True):
    images = _images(count)
    elements = {"image": images}
    if labelled:
        elements["label"] = np.arange(count) * 10
    dataset = tf.data.Dataset.from_tensor_slices(elements)
    return sources.open_source(dataset)


both_kinds = pytest.mark.parametrize("make", [_array, _sequential])


def _rows(source, batches, recipe=None, **kwargs):
    """The first `batches` of a stream: dict of arrays over all rows."""
    kwargs = {"batch_size": _BATCH, **kwargs}
    dataset = pipeline.multiview(source, recipe or _recipe(), **kwargs)
    found = [tf.nest.flatten(b) for b in dataset.take(batches).as_numpy_iterator()]
    spec = dataset.element_spec
    joined = [np.concatenate(parts) for parts in zip(*found)]
    batch = tf.nest.pack_sequence_as(spec, joined)
    return {**batch["views"], **{k: v for k, v in batch.items() if k != "views"}}


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def _cut(rows, low, high=None):
    return {key: value[low:high] for key, value in rows.items()}


@functools.cache
def _whole(make):
    """Four uninterrupted epochs, with labels."""
    return _rows(make(), 4 * _EPOCH // _BATCH, with_labels=True)


# Order ------------------------------------------------------------------------


@both_kinds
def test_epochs(make):
    rows = _whole(make)
    np.testing.assert_array_equal(rows["position"], np.arange(4 * _EPOCH))
    assert rows["index"].dtype == rows["position"].dtype == np.int64
    assert rows["view_0"].shape == (4 * _EPOCH, 8, 8, 3)
    assert rows["view_0"].dtype == np.float32
    epochs = rows["index"].reshape(4, _EPOCH)
    for epoch in epochs:
        # No image twice in an epoch, hence in none of its batches.
        assert len(set(epoch)) == _EPOCH
        assert set(epoch) <= set(range(_COUNT))
        assert list(epoch) != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    left_out = [frozenset(range(_COUNT)) - set(epoch) for epoch in epochs]
    assert len(set(left_out)) > 1


@both_kinds
def test_views_are_of_the_indexed_image_and_differ(make):
    source = make()
    rows = _cut(_whole(make), 0, 2 * _EPOCH)
    plain = _rows(source, 2 * _EPOCH // _BATCH, augment=False)
    np.testing.assert_array_equal(rows["index"], plain["index"])
    one = preprocessing.Preprocessing(size=8)
    images = _images()
    for i, view in zip(plain["index"], plain["view_0"]):
        np.testing.assert_array_equal(view, one.apply(tf.constant(images[i])))
    np.testing.assert_array_equal(plain["view_0"], plain["view_1"])
    for a, b in zip(rows["view_0"], rows["view_1"]):
        assert np.abs(a - b).max() > 0.01
    first, second = rows["index"][:_EPOCH].tolist(), rows["index"][_EPOCH:].tolist()
    common = set(first) & set(second)
    assert len(common) >= 17  # Each epoch leaves out 3 of 23.
    for i in common:
        a, b = first.index(i), _EPOCH + second.index(i)
        assert np.abs(rows["view_0"][a] - rows["view_0"][b]).max() > 0.01


@both_kinds
@pytest.mark.parametrize("start", [10, 45])
def test_a_resumed_stream_is_the_uninterrupted_one(make, start):
    # Both lie inside of a batch, 45 in the third epoch.
    source = make()
    whole = _whole(make)
    rest = _rows(source, 4, start=start, with_labels=True)
    assert rest["position"][0] == start
    _assert_same(rest, _cut(whole, start, start + 16))


@both_kinds
@pytest.mark.parametrize("workers", [2, 4])
def test_shards_are_the_rows_of_the_whole(make, workers):
    source = make()
    whole = _whole(make)
    rows = _BATCH // workers
    parts = [
        _rows(source, 6, shard=(w, workers), with_labels=True) for w in range(workers)
    ]
    for step in range(6):
        mine = [_cut(part, step * rows, step * rows + rows) for part in parts]
        joined = {key: np.concatenate([m[key] for m in mine]) for key in whole}
        _assert_same(joined, _cut(whole, step * _BATCH, (step + 1) * _BATCH))


@both_kinds
def test_shards_resume_inside_of_a_batch(make):
    # Position 6 is row 2 of the batch of 4 to 7: worker 0 goes on at 8, worker 1 at 6.
    source = make()
    whole = _whole(make)
    for worker, wanted in [(0, [8, 9, 12, 13]), (1, [6, 7, 10, 11])]:
        part = _rows(source, 2, shard=(worker, 2), start=6, with_labels=True)
        _assert_same(part, {key: value[wanted] for key, value in whole.items()})


@both_kinds
def test_parallel_calls_and_the_global_seed_change_nothing(make):
    source = make()
    whole = _cut(_whole(make), 0, 28)  # Made without a global seed.
    for seed, parallel in ((0, 1), (5, 3)):
        tf.random.set_seed(seed)
        rows = _rows(source, 7, num_parallel_calls=parallel, with_labels=True)
        _assert_same(rows, whole)


def test_a_local_stream_is_not_autotuned():
    # It costs a twentieth of the time; calls in parallel are given instead.
    stream = pipeline.multiview(_array(), _recipe(), batch_size=_BATCH)
    assert not stream.options().autotune.enabled
    one = preprocessing.Preprocessing(size=8, channels=3)
    stream = pipeline.labeled(_array(), one)
    assert not stream.options().autotune.enabled


@both_kinds
def test_the_seed_decides_order_and_views(make):
    source = make()
    a, b = _cut(_whole(make), 0, 20), _rows(source, 5, seed=8)
    _assert_same(_rows(make(), 5, seed=0, with_labels=True), a)  # Made anew.
    assert list(a["index"]) != list(b["index"])
    # One image, other views.
    i = next(i for i in a["index"] if i in b["index"])
    views_of = [rows["view_0"][list(rows["index"]).index(i)] for rows in (a, b)]
    assert np.abs(views_of[0] - views_of[1]).max() > 0.01


@both_kinds
def test_labels_belong_to_their_images(make):
    rows = _whole(make)
    assert rows["label"].dtype == np.int64
    np.testing.assert_array_equal(rows["label"], rows["index"] * 10)
    assert "label" not in _rows(make(), 1)


def test_a_sequence_reads_every_image_once_per_epoch():
    # 20 images divide into batches: nothing is left out.
    rows = _rows(_sequential(20), 15)
    epochs = rows["index"].reshape(3, 20)
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_sequence_whose_length_is_not_known():
    images = _images()
    dataset = tf.data.Dataset.from_tensor_slices(images).filter(lambda _: True)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    source = sources.open_source(dataset)
    assert source.num_images == _COUNT and source.labels is None
    known = _rows(_sequential(labelled=False), 5, augment=False)
    _assert_same(_rows(source, 5, augment=False), known)


# Kinds of images ----------------------------------------------------------------


@pytest.mark.parametrize(
    "channels, dtype",
    [
        (1, np.uint8),
        (1, np.float32),
        (3, np.uint16),
        (3, np.float32),
        (4, np.uint8),
        (4, np.uint16),
        (13, np.uint16),
        (13, np.float32),
    ],
)
def test_channels_and_depths(channels, dtype):
    source = _array(count=6, channels=channels, dtype=dtype)
    # Normalisation is given for RGB and must fit any number of channels.
    recipe = _recipe(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    rows = _rows(source, 1, recipe)
    view = rows["view_0"] * 0.2
    view += (0.4, 0.5, 0.6) if channels == 3 else 0.5
    assert view.shape == (4, 8, 8, channels)
    assert view.min() > -1e-4 and view.max() < 1 + 1e-4
    # Not one colour: the range is used, whatever the raw depth is.
    assert view.max() - view.min() > 0.2
    plain = _rows(source, 1, recipe, augment=False)
    one = recipes.preprocessing_for(recipe, source)
    for i, found in zip(plain["index"], plain["view_1"]):
        expected = one.apply(tf.constant(source.read(int(i))))
        np.testing.assert_array_equal(found, expected)


def test_every_view_has_its_own_size():
    recipe = recipes.Recipe([views.View(size=12), views.View(size=6)], "two")
    rows = _rows(_array(), 1, recipe, augment=False)
    assert rows["view_0"].shape == (4, 12, 12, 3)
    assert rows["view_1"].shape == (4, 6, 6, 3)


# Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"batch_size": 24}, "has only 23 images"),
        ({"batch_size": 0}, "expected 1 or more"),
        ({"batch_size": 4, "shard": (0, 3)}, "multiple"),
    ],
)
def test_bad_batch_sizes(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pipeline.multiview(_array(), _recipe(), **kwargs)


def test_labels_that_are_not_there():
    with pytest.raises(ValueError, match="array has no labels"):
        pipeline.multiview(
            sources.ArraySource(_images()), _recipe(), batch_size=4, with_labels=True
        )


def test_steps_per_epoch():
    source = _array()
    assert [pipeline.steps_per_epoch(source, n) for n in (1, 4, 23)] == [23, 5, 1]


# Unreadable files ---------------------------------------------------------------


def _file(image, kind):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def _folder(path, good=20):
    """Files of every kind: `(source, bad paths, images as PIL reads them)`."""
    path.mkdir()
    contents = {}
    for i, image in enumerate(_images(good, size=16)):
        kind = ("PNG", "JPEG")[i % 2]
        contents[f"good_{i:02d}.{kind.lower()}"] = _file(image, kind)
    image = _images(1, size=16)[0]
    contents["a_gif.jpg"] = _file(image, "GIF")
    contents["b_bmp.bmp"] = _file(image, "BMP")
    bad = {
        # 16 x 16 is one block of a JPEG: no part of it can be read.
        "good_03_cut.jpg": _file(image, "JPEG")[:-300],
        "good_11_empty.jpg": b"",
        "z_text.png": b"this is text, no image",
    }
    for name, content in {**contents, **bad}.items():
        (path / name).write_bytes(content)
    return sources.open_source(str(path)), sorted(str(path / name) for name in bad)


def _good_twin(source):
    """As many images, all good, numbered by their place: the same order."""
    images = np.zeros((source.num_images, 9, 9, 3), np.uint8)
    return sources.ArraySource(images)


def test_unreadable_files_are_left_out_and_named(tmp_path):
    source, bad = _folder(tmp_path / "data")
    assert source.num_images == 25
    lost = {i for i in range(25) if source.describe(i) in bad}
    assert len(lost) == 3
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = _rows(source, 18, bad_files=met)  # Three epochs of 24 and more.
    order = _rows(_good_twin(source), 24)["index"]
    kept = [(p, i) for p, i in enumerate(order) if i not in lost][: len(rows["index"])]
    # Images after a gap move up; none is lost, none comes twice.
    found = list(zip(rows["position"], rows["index"]))
    assert found == kept
    # Every bad file was due by now: each is named once, though met repeatedly.
    assert lost <= set(order[: rows["position"][-1]])
    assert sorted(met.files) == bad
    assert met.count == 3 and met.error is None


def test_readable_files_give_their_pixels(tmp_path):
    source, bad = _folder(tmp_path / "data")
    recipe = _recipe(size=16)
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = _rows(source, 6, recipe, augment=False, bad_files=met)
    for i, view in zip(rows["index"], rows["view_0"]):
        with Image.open(source.describe(i)) as image:
            expected = np.asarray(image.convert("RGB")) / 255.0
        # JPEG decoders may differ by a step or two of 255.
        np.testing.assert_allclose(view, expected, atol=4 / 255)


def test_gaps_are_named_by_each_worker_and_after_a_resume(tmp_path):
    source, bad = _folder(tmp_path / "data")
    named = set()
    for worker in range(2):
        met = pipeline.BadFiles(max_fraction=0.2)
        rows = _rows(source, 30, shard=(worker, 2), start=6, bad_files=met)
        assert set(rows["position"] % 4) <= {2 * worker, 2 * worker + 1}
        assert set(met.files) <= set(bad)
        named |= set(met.files)
    assert sorted(named) == bad


def test_too_many_unreadable_files_stop_the_stream(tmp_path):
    source, bad = _folder(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.1)  # 2.5 of 25.
    with pytest.raises((ValueError, tf.errors.OpError)) as caught:
        _rows(source, 20, bad_files=met)
    for text in (met.error, str(caught.value)):
        assert "3 of 25 images" in text
        assert "max_bad_fraction=0.1" in text
        for path in bad:
            assert path in text
    assert sorted(met.files) == bad


def test_default_limit_is_one_percent(tmp_path):
    source, bad = _folder(tmp_path / "data")
    with pytest.raises((ValueError, tf.errors.OpError), match="of 25 images"):
        _rows(source, 20)


@pytest.mark.parametrize("count", [1, 40])
def test_only_unreadable_files_stop_at_once(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i:02d}.jpg").write_bytes(b"no image")
    source = sources.open_source(str(tmp_path))
    limit = pipeline.BadFiles(max_fraction=1.0)
    with pytest.raises(ValueError, match=r"could be decoded.*00\.jpg"):
        pipeline.multiview(source, _recipe(), batch_size=1, bad_files=limit)
    one = preprocessing.Preprocessing(size=8)
    with pytest.raises(ValueError, match="could be decoded"):
        pipeline.labeled(source, one, bad_files=limit)


def test_files_that_vanish_are_unreadable_files(tmp_path):
    source, bad = _folder(tmp_path / "data")
    gone = source.describe(0)  # The first that is tried.
    os.remove(gone)
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = _rows(source, 14, bad_files=met)
    assert 0 not in rows["index"]
    assert sorted(met.files) == sorted([*bad, gone])


@pytest.mark.parametrize("small", [64, 0])
def test_a_folder_that_is_deleted_stops_the_stream(tmp_path, monkeypatch, small):
    monkeypatch.setattr(pipeline, "_SMALL", small)
    source, _ = _folder(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.3)
    dataset = pipeline.multiview(source, _recipe(), batch_size=_BATCH, bad_files=met)
    batches = iter(dataset)
    next(batches)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match="8 of 25 images .* could not be read"):
        with bad_files.explained(met):
            for _ in batches:
                pass
    assert met.count == 8  # One more than may be.


def test_a_sequence_whose_file_is_deleted_stops_the_stream(tmp_path):
    path = str(tmp_path / "images.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for image in _images():
            writer.write(_file(image, "PNG"))
    source = sources.open_source(tf.data.TFRecordDataset(path))
    met = pipeline.BadFiles(max_fraction=0.2)
    dataset = pipeline.multiview(source, _recipe(), batch_size=_BATCH, bad_files=met)
    batches = iter(dataset)
    next(batches)
    os.remove(path)  # It is opened anew in every epoch.
    with pytest.raises(ValueError, match="5 of 23 images .* could not be read"):
        with bad_files.explained(met):
            for _ in batches:
                pass


def _encoded_sequence(bad_places, count=20):
    files = [_file(image, "PNG") for image in _images(count)]
    for i in bad_places:
        files[i] = b"no image"
    return sources.open_source(tf.data.Dataset.from_tensor_slices(files))


def test_unreadable_images_of_a_sequence_count_once():
    source = _encoded_sequence([3, 8])
    met = pipeline.BadFiles(max_fraction=0.1)  # Both are allowed.
    rows = _rows(source, 18, bad_files=met)  # Four epochs.
    assert met.count == 2
    whole = _rows(_encoded_sequence([]), 25)
    kept = [
        (p, i) for p, i in zip(whole["position"], whole["index"]) if i not in (3, 8)
    ]
    assert list(zip(rows["position"], rows["index"])) == kept[:72]
    strict = pipeline.BadFiles(max_fraction=0.05)
    with pytest.raises((ValueError, tf.errors.OpError), match="2 of 20 images"):
        _rows(source, 18, bad_files=strict)


def test_limit_of_bad_files():
    with pytest.raises(ValueError, match="max_fraction=2 received"):
        pipeline.BadFiles(2)


@both_kinds
def test_large_views_come_in_the_same_order(make, monkeypatch):
    # Views above `_SMALL` pixels are made one by one; here all count as large.
    monkeypatch.setattr(pipeline, "_SMALL", 0)
    rows = _rows(make(), 4, start=6, shard=(1, 2), with_labels=True)
    places = [p for p in range(6, 22) if p % 4 >= 2][:8]
    small = {key: value[places] for key, value in _whole(make).items()}
    for key in ("position", "index", "label"):
        np.testing.assert_array_equal(rows[key], small[key])
    for key in ("view_0", "view_1"):
        np.testing.assert_allclose(rows[key], small[key], atol=1e-5)


def test_large_views_leave_unreadable_files_out(tmp_path, monkeypatch):
    source, bad = _folder(tmp_path / "data")
    limits = [pipeline.BadFiles(max_fraction=0.2) for _ in range(2)]
    small = _rows(source, 7, bad_files=limits[0])
    monkeypatch.setattr(pipeline, "_SMALL", 0)
    large = _rows(source, 7, bad_files=limits[1])
    np.testing.assert_array_equal(large["position"], small["position"])
    np.testing.assert_array_equal(large["index"], small["index"])
    np.testing.assert_allclose(large["view_1"], small["view_1"], atol=1e-5)
    assert sorted(limits[1].files) == bad


# Every image once ---------------------------------------------------------------


def _labeled(source, size=8, **kwargs):
    one = preprocessing.Preprocessing(size=size, channels=source.channels)
    dataset = pipeline.labeled(source, one, **kwargs)
    return list(dataset.as_numpy_iterator())


@both_kinds
def test_labeled_gives_every_image_once(make):
    batches = _labeled(make(), batch_size=5)
    assert len(batches) == 5
    one = preprocessing.Preprocessing(size=8)
    images = _images()
    for batch in batches:
        assert batch["image"].shape == (5, 8, 8, 3)
        assert batch["label"].dtype == batch["index"].dtype == np.int64
        np.testing.assert_array_equal(batch["label"], batch["index"] * 10)
        for i, image in zip(batch["index"], batch["image"]):
            np.testing.assert_array_equal(image, one.apply(tf.constant(images[i])))
    mask = np.concatenate([b["mask"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])
    assert mask.tolist() == [True] * 23 + [False] * 2
    assert index.tolist() == [*range(23), 20, 20]  # Filled with the first row.


def test_labeled_without_labels_says_minus_one():
    (batch,) = _labeled(sources.ArraySource(_images(3)), batch_size=4)
    assert batch["label"].tolist() == [-1] * 4
    assert batch["mask"].tolist() == [True, True, True, False]


def test_labeled_takes_indices_in_their_order():
    (batch,) = _labeled(_array(), batch_size=4, indices=[9, 2, 17])
    assert batch["index"].tolist()[:3] == [9, 2, 17]
    assert batch["label"].tolist()[:3] == [90, 20, 170]
    # A sequence comes in its own order.
    (batch,) = _labeled(_sequential(), batch_size=4, indices=[9, 2, 17])
    assert batch["index"].tolist()[:3] == [2, 9, 17]
    assert batch["mask"].tolist() == [True, True, True, False]


def test_labeled_leaves_unreadable_files_out_and_names_them(tmp_path):
    source, bad = _folder(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.2)
    batches = _labeled(source, batch_size=8, bad_files=met)
    index = np.concatenate([b["index"][b["mask"]] for b in batches])
    good = [i for i in range(25) if source.describe(i) not in bad]
    assert index.tolist() == good
    # The last file of the folder is bad: it has no good one after it.
    assert source.describe(24) in bad
    assert sorted(met.files) == bad
    assert all(batch["image"].shape[0] == 8 for batch in batches)


def test_labeled_names_unreadable_files_among_indices(tmp_path):
    source, bad = _folder(tmp_path / "data")
    lost = [i for i in range(25) if source.describe(i) in bad]
    met = pipeline.BadFiles(max_fraction=0.2)
    (batch,) = _labeled(
        source, batch_size=4, indices=[7, lost[1], 0, lost[2]], bad_files=met
    )
    assert batch["index"][batch["mask"]].tolist() == [7, 0]
    assert met.files == [source.describe(lost[1]), source.describe(lost[2])]


def test_labeled_stops_at_too_many_unreadable_files(tmp_path):
    source, bad = _folder(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.1)
    with pytest.raises((ValueError, tf.errors.OpError), match="3 of 25 images"):
        _labeled(source, batch_size=8, bad_files=met)
    assert "3 of 25 images" in met.error


def test_labeled_ends_when_its_folder_is_deleted(tmp_path):
    source, _ = _folder(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.3)
    one = preprocessing.Preprocessing(size=8)
    batches = iter(pipeline.labeled(source, one, batch_size=2, bad_files=met))
    next(batches)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match="8 of 25 images .* could not be read"):
        with bad_files.explained(met):
            for _ in batches:
                pass


def test_labeled_names_unreadable_images_of_a_sequence():
    met = pipeline.BadFiles(max_fraction=0.2)
    (batch,) = _labeled(
        _encoded_sequence([3, 19]), batch_size=20, indices=[19, 3, 5, 5], bad_files=met
    )
    assert batch["index"][batch["mask"]].tolist() == [5]
    assert met.files == ["tf.data[3]", "tf.data[19]"]


def test_labeled_does_not_depend_on_parallel_calls():
    one = _labeled(_array(), batch_size=5, num_parallel_calls=1)
    many = _labeled(_array(), batch_size=5)
    for a, b in zip(one, many, strict=True):
        _assert_same(a, b)


def test_labeled_needs_the_channels_of_the_encoder():
    one = preprocessing.Preprocessing(size=8, channels=1)
    with pytest.raises(ValueError, match="open the data with channels=1"):
        pipeline.labeled(_array(), one)

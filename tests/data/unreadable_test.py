"""Streams of images of which some cannot be read."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.fixtures import batches as made
from tfssl.data import bad_files, pipeline, preprocessing, sources
from tfssl.data.views import batched


def test_unreadable_files_are_left_out_and_named(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    assert source.num_images == 25
    lost = {i for i in range(25) if source.describe(i) in bad}
    assert len(lost) == 3
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = made.rows_of(source, 18, bad_files=met)  # Three epochs of 24 and more.
    order = made.rows_of(made.good_twin(source), 24)["index"]
    kept = [(p, i) for p, i in enumerate(order) if i not in lost][: len(rows["index"])]
    # Images after a gap move up; none is lost, none comes twice.
    found = list(zip(rows["position"], rows["index"]))
    assert found == kept
    # Every bad file was due by now: each is named once, though met repeatedly.
    assert lost <= set(order[: rows["position"][-1]])
    assert sorted(met.files) == bad
    assert met.count == 3 and met.error is None


def test_readable_files_give_their_pixels(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    recipe = made.recipe(size=16)
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = made.rows_of(source, 6, recipe, augment=False, bad_files=met)
    for i, view in zip(rows["index"], rows["view_0"]):
        with Image.open(source.describe(i)) as image:
            expected = np.asarray(image.convert("RGB")) / 255.0
        # JPEG decoders may differ by a step or two of 255.
        np.testing.assert_allclose(view, expected, atol=4 / 255)


def test_gaps_are_named_by_each_worker_and_after_a_resume(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    named = set()
    for worker in range(2):
        met = pipeline.BadFiles(max_fraction=0.2)
        rows = made.rows_of(source, 30, shard=(worker, 2), start=6, bad_files=met)
        assert set(rows["position"] % 4) <= {2 * worker, 2 * worker + 1}
        assert set(met.files) <= set(bad)
        named |= set(met.files)
    assert sorted(named) == bad


def test_too_many_unreadable_files_stop_the_stream(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.1)  # 2.5 of 25.
    with pytest.raises((ValueError, tf.errors.OpError)) as caught:
        made.rows_of(source, 20, bad_files=met)
    for text in (met.error, str(caught.value)):
        assert "3 of 25 images" in text
        assert "max_bad_fraction=0.1" in text
        for path in bad:
            assert path in text
    assert sorted(met.files) == bad


def test_default_limit_is_one_percent(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    with pytest.raises((ValueError, tf.errors.OpError), match="of 25 images"):
        made.rows_of(source, 20)


@pytest.mark.parametrize("count", [1, 40])
def test_only_unreadable_files_stop_at_once(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i:02d}.jpg").write_bytes(b"no image")
    source = sources.open_source(str(tmp_path))
    limit = pipeline.BadFiles(max_fraction=1.0)
    with pytest.raises(ValueError, match=r"could be decoded.*00\.jpg"):
        pipeline.multiview(source, made.recipe(), batch_size=1, bad_files=limit)
    one = preprocessing.Preprocessing(size=8)
    with pytest.raises(ValueError, match="could be decoded"):
        pipeline.labeled(source, one, bad_files=limit)


def test_files_that_vanish_are_unreadable_files(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    gone = source.describe(0)  # The first that is tried.
    os.remove(gone)
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = made.rows_of(source, 14, bad_files=met)
    assert 0 not in rows["index"]
    assert sorted(met.files) == sorted([*bad, gone])


@pytest.mark.parametrize("small", [64, 0])
def test_a_folder_that_is_deleted_stops_the_stream(tmp_path, monkeypatch, small):
    monkeypatch.setattr(batched, "SMALL", small)
    source, _ = made.folder_of(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.3)
    dataset = pipeline.multiview(
        source, made.recipe(), batch_size=made.BATCH, bad_files=met
    )
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
        for image in made.images_of():
            writer.write(made.file_of(image, "PNG"))
    source = sources.open_source(tf.data.TFRecordDataset(path))
    met = pipeline.BadFiles(max_fraction=0.2)
    dataset = pipeline.multiview(
        source, made.recipe(), batch_size=made.BATCH, bad_files=met
    )
    batches = iter(dataset)
    next(batches)
    os.remove(path)  # It is opened anew in every epoch.
    with pytest.raises(ValueError, match="5 of 23 images .* could not be read"):
        with bad_files.explained(met):
            for _ in batches:
                pass


def test_unreadable_images_of_a_sequence_count_once():
    source = made.encoded_sequence([3, 8])
    met = pipeline.BadFiles(max_fraction=0.1)  # Both are allowed.
    rows = made.rows_of(source, 18, bad_files=met)  # Four epochs.
    assert met.count == 2
    whole = made.rows_of(made.encoded_sequence([]), 25)
    kept = [
        (p, i) for p, i in zip(whole["position"], whole["index"]) if i not in (3, 8)
    ]
    assert list(zip(rows["position"], rows["index"])) == kept[:72]
    strict = pipeline.BadFiles(max_fraction=0.05)
    with pytest.raises((ValueError, tf.errors.OpError), match="2 of 20 images"):
        made.rows_of(source, 18, bad_files=strict)


def test_limit_of_bad_files():
    with pytest.raises(ValueError, match="max_fraction=2 received"):
        pipeline.BadFiles(2)


def test_large_views_leave_unreadable_files_out(tmp_path, monkeypatch):
    source, bad = made.folder_of(tmp_path / "data")
    limits = [pipeline.BadFiles(max_fraction=0.2) for _ in range(2)]
    small = made.rows_of(source, 7, bad_files=limits[0])
    monkeypatch.setattr(batched, "SMALL", 0)
    large = made.rows_of(source, 7, bad_files=limits[1])
    np.testing.assert_array_equal(large["position"], small["position"])
    np.testing.assert_array_equal(large["index"], small["index"])
    np.testing.assert_allclose(large["view_1"], small["view_1"], atol=1e-5)
    assert sorted(limits[1].files) == bad

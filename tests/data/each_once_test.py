import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl.data import bad_files, each_once, pipeline, preprocessing, sources


def _labeled(source, size=8, **kwargs):
    one = preprocessing.Preprocessing(size=size, channels=source.channels)
    dataset = each_once.labeled(source, one, **kwargs)
    return list(dataset.as_numpy_iterator())


@made.both_kinds
def test_labeled_gives_every_image_once(make):
    batches = _labeled(make(), batch_size=5)
    assert len(batches) == 5
    one = preprocessing.Preprocessing(size=8)
    images = made.images_of()
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


@made.both_kinds
def test_some_images_are_of_all_folders_where_that_costs_nothing(make):
    source = make()
    spread = [0, 5, 11, 17] if source.random_access else [0, 1, 2, 3]
    assert each_once.some(source, 4).tolist() == spread
    for count in (23, 99):
        assert each_once.some(source, count).tolist() == [*range(23)]


def test_labeled_without_labels_says_minus_one():
    (batch,) = _labeled(sources.ArraySource(made.images_of(3)), batch_size=4)
    assert batch["label"].tolist() == [-1] * 4
    assert batch["mask"].tolist() == [True, True, True, False]


def test_labeled_takes_indices_in_their_order():
    (batch,) = _labeled(made.array(), batch_size=4, indices=[9, 2, 17])
    assert batch["index"].tolist()[:3] == [9, 2, 17]
    assert batch["label"].tolist()[:3] == [90, 20, 170]
    # A sequence comes in its own order.
    (batch,) = _labeled(made.sequential(), batch_size=4, indices=[9, 2, 17])
    assert batch["index"].tolist()[:3] == [2, 9, 17]
    assert batch["mask"].tolist() == [True, True, True, False]


def test_labeled_leaves_unreadable_files_out_and_names_them(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
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
    source, bad = made.folder_of(tmp_path / "data")
    lost = [i for i in range(25) if source.describe(i) in bad]
    met = pipeline.BadFiles(max_fraction=0.2)
    (batch,) = _labeled(
        source, batch_size=4, indices=[7, lost[1], 0, lost[2]], bad_files=met
    )
    assert batch["index"][batch["mask"]].tolist() == [7, 0]
    assert met.files == [source.describe(lost[1]), source.describe(lost[2])]


def test_labeled_stops_at_too_many_unreadable_files(tmp_path):
    source, bad = made.folder_of(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.1)
    with pytest.raises((ValueError, tf.errors.OpError), match="3 of 25 images"):
        _labeled(source, batch_size=8, bad_files=met)
    assert "3 of 25 images" in met.error


def test_labeled_ends_when_its_folder_is_deleted(tmp_path):
    source, _ = made.folder_of(tmp_path / "data")
    met = pipeline.BadFiles(max_fraction=0.3)
    one = preprocessing.Preprocessing(size=8)
    batches = iter(each_once.labeled(source, one, batch_size=2, bad_files=met))
    next(batches)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match="8 of 25 images .* could not be read"):
        with bad_files.explained(met):
            for _ in batches:
                pass


def test_labeled_names_unreadable_images_of_a_sequence():
    met = pipeline.BadFiles(max_fraction=0.2)
    (batch,) = _labeled(
        made.encoded_sequence([3, 19]),
        batch_size=20,
        indices=[19, 3, 5, 5],
        bad_files=met,
    )
    assert batch["index"][batch["mask"]].tolist() == [5]
    assert met.files == ["tf.data[3]", "tf.data[19]"]


def test_labeled_does_not_depend_on_parallel_calls():
    one = _labeled(made.array(), batch_size=5, num_parallel_calls=1)
    many = _labeled(made.array(), batch_size=5)
    for a, b in zip(one, many, strict=True):
        made.assert_same(a, b)


def test_labeled_needs_the_channels_of_the_encoder():
    one = preprocessing.Preprocessing(size=8, channels=1)
    with pytest.raises(ValueError, match="open the data with channels=1"):
        each_once.labeled(made.array(), one)

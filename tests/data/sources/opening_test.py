import os

import numpy as np
import pytest

from tfssl.data import sources
from tfssl.data.sources import opening


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"channels": 1}, "channels=1 received .*, but array has 3"),
        ({"labels": "yes"}, "labels='yes'"),
        ({"bit_depth": 12}, "bit_depth=12"),
        ({"channels": 0}, "channels=0 received"),
        ({"labels": "folders"}, "array is no folder of image files"),
        ({"split": "train"}, "split='train' received for array, which has no splits"),
    ],
)
def test_bad_settings(kwargs, message, make_images):
    with pytest.raises(ValueError, match=message):
        sources.open_source(make_images(), **kwargs)


def test_labels_can_be_left_out_and_a_source_passes_through(make_images):
    pair = (make_images(), np.arange(6))
    assert sources.open_source(pair, labels="none").labels is None
    source = sources.open_source(pair)
    assert sources.open_source(source) is source
    assert sources.open_source(source, labels="none").labels is None
    assert source.labels is not None


def test_folders_are_no_labels_of_what_is_no_folder(tmp_path):
    for data in ("digits", sources.ArraySource(np.zeros((2, 4, 4, 1), np.uint8))):
        with pytest.raises(ValueError, match="is no folder of image files"):
            sources.open_source(data, labels="folders")


def _labelled(labels):
    # Image i is filled with i, to be told apart.
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] + np.zeros((1, 2, 2))
    return sources.ArraySource(images.astype(np.uint8), labels)


def _members(source):
    return [int(source.read(i)[0, 0, 0]) for i in range(source.num_images)]


def test_holdout_keeps_the_shares_of_the_classes():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 50, 20]))
    source = _labelled(labels)
    train, validation = sources.holdout(source, fraction=0.2, seed=1)
    a, b = _members(train), _members(validation)
    assert sorted(a + b) == list(range(170)) and len(b) == 34
    assert a == sorted(a) and b == sorted(b)
    assert np.abs(np.bincount(validation.labels) - [20, 10, 4]).max() <= 1
    np.testing.assert_array_equal(validation.labels, labels[b])
    assert _members(sources.holdout(source, fraction=0.2, seed=1)[1]) == b
    assert _members(sources.holdout(source, fraction=0.2, seed=2)[1]) != b
    assert "validation part" in validation.name and "training part" in train.name


def test_holdout_of_partly_labelled_images_takes_labelled_ones():
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1], [80, 20, 40]))
    source = _labelled(labels)
    train, validation = sources.holdout(source, fraction=0.25)
    a, b = _members(train), _members(validation)
    assert sorted(a + b) == list(range(140)) and b == sorted(b)
    assert np.bincount(validation.labels).tolist() == [5, 10]  # A quarter of each.
    assert (train.labels < 0).sum() == 80
    with pytest.raises(ValueError, match="fraction=0.01 of 3 labelled images received"):
        sources.holdout(_labelled(np.array([-1] * 100 + [0, 1, 2])), fraction=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_holdout_leaves_an_image_of_every_class_to_learn_from(seed):
    labels = np.repeat([0, 1, 2, 3], [30, 30, 1, 1])
    train, validation = sources.holdout(_labelled(labels), fraction=0.2, seed=seed)
    assert validation.num_images == 12
    assert set(train.labels) == {0, 1, 2, 3} and set(validation.labels) == {0, 1}
    each = _labelled(np.arange(10))  # Of all classes the last; there are no others.
    assert sources.holdout(each, fraction=0.2, seed=seed)[1].num_images == 2


def test_holdout_by_other_labels_of_the_same_images():
    labels = np.repeat([0, 1], 20)
    source, bare = _labelled(labels), _labelled(np.full(40, -1))
    train, validation = sources.holdout(source, fraction=0.2, seed=3, by=bare)
    expected = sources.holdout(bare, fraction=0.2, seed=3)
    assert _members(validation) == _members(expected[1])
    assert _members(validation) != _members(sources.holdout(source, fraction=0.2)[1])
    assert train.identity() == expected[0].identity()
    np.testing.assert_array_equal(validation.labels, labels[_members(validation)])


@pytest.mark.parametrize("labels", [None, [-1] * 20])
def test_holdout_of_images_without_labels(labels):
    images = (
        np.zeros((20, 2, 2, 1), np.uint8)
        + np.arange(20, dtype=np.uint8)[:, None, None, None]
    )
    source = sources.ArraySource(images, labels)
    train, validation = sources.holdout(source, fraction=0.25)
    a, b = _members(train), _members(validation)
    assert sorted(a + b) == list(range(20)) and len(b) == 5
    assert b != list(range(5)) and b != list(range(15, 20))


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.001, 0.999, -0.5])
def test_holdout_leaves_images_on_both_sides(fraction, make_images):
    with pytest.raises(ValueError, match="both sides"):
        sources.holdout(sources.open_source(make_images()), fraction=fraction)


def test_fingerprint_of_arrays_follows_pixels_labels_and_shape(make_images):
    images = make_images()
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    labels = np.arange(6)
    made = [
        (images, labels),
        (changed, labels),
        (images, labels[::-1]),
        images,
        images.reshape(6, 4, 16, 3),
        images[::-1],
    ]
    prints = [sources.open_source(data).fingerprint() for data in made]
    assert len(set(prints)) == len(made)
    assert all(len(p) == 64 for p in prints)
    assert sources.open_source((images.copy(), labels)).fingerprint() == prints[0]


def test_fingerprint_of_folders_follows_names_and_sizes(tmp_path, write_tree):
    files = write_tree(tmp_path / "a")
    write_tree(tmp_path / "b")
    a = sources.open_source(tmp_path / "a").fingerprint()
    assert sources.open_source(tmp_path / "b").fingerprint() == a  # Moved, the same.
    assert sources.open_source(tmp_path / "a", labels="folders").fingerprint() != a
    with open(next(iter(files)), "ab") as file:
        file.write(b"\0")
    assert sources.open_source(tmp_path / "a").fingerprint() != a
    os.rename(tmp_path / "b/a_dog/1.png", tmp_path / "b/a_dog/3.png")
    assert sources.open_source(tmp_path / "b").fingerprint() != a


def test_the_identity_is_of_images_alone(tmp_path, write_tree, make_images):
    write_tree(tmp_path / "a")
    (tmp_path / "moved").mkdir()
    write_tree(tmp_path / "moved" / "b")
    a = sources.open_source(tmp_path / "a").identity()
    assert sources.open_source(tmp_path / "moved" / "b").identity() == a
    assert sources.open_source(tmp_path / "a", labels="folders").identity() == a
    with open(tmp_path / "a" / "a_dog" / "1.png", "ab") as file:
        file.write(b"\0")
    assert sources.open_source(tmp_path / "a").identity() != a
    # Unlike the fingerprint, with the folders' names.
    os.rename(tmp_path / "moved/b/a_dog", tmp_path / "moved/b/b_dog")
    renamed = sources.open_source(tmp_path / "moved" / "b")
    assert renamed.identity() != a
    part, other = renamed.subset([1, 2]).identity(), renamed.subset([2, 1]).identity()
    assert len({part, other, renamed.identity()}) == 3
    listed = tmp_path / "list.csv"
    listed.write_text("path\nmissing/1.png\nmissing/2.png\n")
    assert len(sources.open_source(listed).identity()) == 64  # Found out in decoding.

    images = make_images()
    plain = sources.open_source(images).identity()
    assert sources.open_source((images, np.arange(6))).identity() == plain
    assert sources.open_source(images[::-1]).identity() != plain


@pytest.mark.parametrize("name", ["digits", "scenes"])
def test_a_folder_of_the_name_of_made_data_is_said(
    name, tmp_path, monkeypatch, caplog, write_image
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        opening._MADE, name, lambda split: sources.ArraySource(np.zeros((2, 4, 4, 1)))
    )
    sources.open_source(name)
    assert not caplog.messages
    write_image(tmp_path / name / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert sources.open_source(name).num_images == 2
    (line,) = caplog.messages
    assert line.startswith(f"data={name!r} is the data of that name that comes with")
    assert line.endswith(f"for the folder give folder:{name}.")
    for way in (f"folder:{name}", f"./{name}"):
        assert sources.open_source(way).num_images == 1

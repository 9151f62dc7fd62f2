import hashlib
import json

import numpy as np
import pytest

from tfssl.data import labels as labels_lib
from tfssl.data import sources


def _labels():
    # Classes of 40, 100 and 60 images, mixed; 7 images without a label.
    values = np.repeat([0, 1, 2, -1], [40, 100, 60, 7])
    return np.random.default_rng(3).permutation(values)


def _source(labels):
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return sources.ArraySource(images, labels, name="made")


def _digest(indices, labels):
    """The hash as documented: the indices, then their labels, little-endian int64."""
    data = np.concatenate([indices, labels[indices]]).astype("<i8").tobytes()
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "asked, counts",
    [
        ({"fraction": 0.1}, (4, 10, 6)),
        ({"fraction": 1.0}, (40, 100, 60)),
        # 0.4, 1.0 and 0.6 images: at least one of each class.
        ({"fraction": 0.01}, (1, 1, 1)),
        ({"per_class": 5}, (5, 5, 5)),
        ({"per_class": 40}, (40, 40, 40)),
    ],
)
def test_select_takes_the_same_share_or_number_of_every_class(asked, counts):
    labels = _labels()
    chosen = labels_lib.select(labels, **asked)
    found = [(labels[chosen.indices] == label).sum() for label in range(3)]
    assert tuple(found) == counts
    assert len(chosen.indices) == sum(counts)  # Hence no unlabelled image.
    assert chosen.indices.dtype == np.int64
    assert (np.diff(chosen.indices) > 0).all()


def test_select_is_nested_and_follows_the_seed_only():
    labels = _labels()
    one, ten = (labels_lib.select(labels, fraction=f, seed=5) for f in (0.03, 0.1))
    assert set(one.indices) < set(ten.indices)
    two, nine = (labels_lib.select(labels, per_class=n, seed=5) for n in (2, 9))
    assert set(two.indices) < set(nine.indices)
    np.random.seed(1)
    again = labels_lib.select(labels, fraction=0.1, seed=5)
    np.testing.assert_array_equal(again.indices, ten.indices)
    assert again.sha256 == ten.sha256
    other = labels_lib.select(labels, fraction=0.1, seed=6)
    assert set(other.indices) != set(ten.indices)
    assert other.sha256 != ten.sha256


def test_order_of_a_class_does_not_depend_on_other_classes():
    labels = _labels()
    chosen = labels_lib.select(labels, per_class=6).indices
    fewer = np.where(labels == 2, -1, labels)
    rest = labels_lib.select(fewer, per_class=6).indices
    assert set(rest) == {i for i in chosen if labels[i] != 2}


def test_the_chosen_images_and_their_hash_are_the_same_in_every_version():
    labels = np.arange(12) % 3
    # NumPy keeps `default_rng` streams; this list must never change, or published
    # label subsets would.
    chosen = labels_lib.select(labels, per_class=2, seed=0)
    expected = []
    for label in range(3):
        rng = np.random.default_rng((0, label))
        expected += rng.permutation(np.arange(label, 12, 3))[:2].tolist()
    assert chosen.indices.tolist() == sorted(expected)
    assert chosen.sha256 == _digest(chosen.indices, labels)
    assert "2 per class" in chosen.description and "seed 0" in chosen.description


def test_hash_covers_the_labels():
    labels = np.zeros(8, np.int64)
    relabelled = labels.copy()
    chosen = labels_lib.select(labels, per_class=3)
    relabelled[chosen.indices[0]] = 1
    source = _source(relabelled)
    found = labels_lib._selection(chosen.indices, source.labels, "")
    assert found.sha256 != chosen.sha256


def test_save_and_load_give_the_selection_back(tmp_path):
    labels = _labels()
    chosen = labels_lib.select(labels, fraction=0.1, seed=2)
    path = tmp_path / "subset.json"
    chosen.save(path, _source(labels).identity())
    assert [p.name for p in tmp_path.iterdir()] == ["subset.json"]
    loaded = labels_lib.load(path, _source(labels))
    np.testing.assert_array_equal(loaded.indices, chosen.indices)
    assert loaded.sha256 == chosen.sha256
    assert loaded.description == chosen.description


def test_load_refuses_other_data(tmp_path):
    labels = _labels()
    chosen = labels_lib.select(labels, fraction=0.1)
    path = tmp_path / "subset.json"
    chosen.save(path, _source(labels).identity())
    other = labels.copy()
    other[chosen.indices[4]] = (other[chosen.indices[4]] + 1) % 3
    with pytest.raises(
        ValueError, match="for other labels than those of made: SHA-256"
    ):
        labels_lib.load(path, _source(other))
    with pytest.raises(ValueError, match="but made has 20"):
        labels_lib.load(path, _source(labels[:20]))
    stored = json.loads(path.read_text())
    stored["indices"][0] += 1
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="SHA-256"):
        labels_lib.load(path, _source(labels))


def test_load_refuses_other_images_of_the_same_labels(tmp_path):
    """One file more before them, one less behind, or a part of them."""
    old = _files(tmp_path, ["b.png", "c.png", "d.png", "e.png"])
    path = tmp_path / "subset.json"
    labels_lib.select(old.labels, per_class=1).save(path, old.identity())
    new = _files(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    part = _files(tmp_path, [f"{n}.png" for n in "abcdef"]).subset([0, 1, 2, 5])
    for others in (new, part):
        np.testing.assert_array_equal(others.labels, old.labels)
        with pytest.raises(ValueError, match="for other images than those of .*hold-o"):
            labels_lib.from_file(path, others)
    labels_lib.from_file(path, old)


def _files(tmp_path, names):
    paths = [str(tmp_path / name) for name in names]
    return sources.FileSource(paths, name="files", labels=np.arange(len(names)) % 2)


def test_from_file_list_finds_files_by_name(tmp_path):
    source = _files(tmp_path, ["n01/a.JPEG", "n01/b.JPEG", "n02/c.JPEG", "n02/d.JPEG"])
    listing = tmp_path / "list.txt"
    listing.write_text("d.JPEG\n\nsomewhere/a.JPEG\nc.JPEG\n")
    chosen = labels_lib.from_file_list(listing, source)
    assert chosen.indices.tolist() == [0, 2, 3]
    assert chosen.sha256 == _digest(np.array([0, 2, 3]), source.labels)


def test_from_file_list_counts_a_repeated_name_once(tmp_path):
    source = _files(tmp_path, ["a.png", "b.png"])
    listing = tmp_path / "list.txt"
    listing.write_text("b.png\nb.png\n")
    assert labels_lib.from_file_list(listing, source).indices.tolist() == [1]


def test_from_file_list_names_missing_and_ambiguous_files(tmp_path):
    source = _files(tmp_path, ["n01/a.png", "n02/a.png", "n02/b.png"])
    listing = tmp_path / "list.txt"
    listing.write_text("b.png\nx.png\ny.png\n")
    with pytest.raises(ValueError, match=r"'x\.png' and 1 more"):
        labels_lib.from_file_list(listing, source)
    # Two files of one name in different folders: either could be meant.
    listing.write_text("b.png\na.png\n")
    with pytest.raises(ValueError, match=r"a\.png"):
        labels_lib.from_file_list(listing, source)
    listing.write_text("b.png\n")
    assert labels_lib.from_file_list(listing, source).indices.tolist() == [2]


@pytest.mark.parametrize(
    "labels, asked, message",
    [
        (None, {"fraction": 0.1}, "no labels"),
        (np.full(4, -1), {"fraction": 0.1}, "no labels"),
        (np.zeros(0, int), {"fraction": 0.1}, "no labels"),
        (np.zeros(4, int), {}, "one of them"),
        (np.zeros(4, int), {"fraction": 0.5, "per_class": 1}, "one of them"),
        (np.zeros(4, int), {"fraction": 0.0}, r"\(0, 1\]"),
        (np.zeros(4, int), {"fraction": 1.5}, r"\(0, 1\]"),
        (np.zeros(4, int), {"per_class": 0}, "1 or more"),
        (np.zeros(4, int), {"per_class": 5}, "class 0 has 4 images"),
    ],
)
def test_select_says_what_is_wrong(labels, asked, message):
    with pytest.raises(ValueError, match=message):
        labels_lib.select(labels, **asked)


def test_held_out_is_class_balanced():
    labels = np.repeat([3, 5, 9], [2, 10, 100])
    mask = labels_lib.held_out(labels, 0.2, np.random.default_rng(0))
    counts = {label: int(mask[labels == label].sum()) for label in (3, 5, 9)}
    # round(0.4) = 0 is raised to 1; the others are a fifth.
    assert counts == {3: 1, 5: 2, 9: 20}
    labels[0] = 4  # Now 3 and 4 have one image each.
    assert not labels_lib.held_out(labels, 0.2, np.random.default_rng(0)).any()

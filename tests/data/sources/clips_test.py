import numpy as np
import pytest

from tfssl.data import sources
from tfssl.data.sources import clips, first_channels


def _pairs(path, numbers, columns=""):
    """A manifest of frames with the one five numbers later; no file is there."""
    rows = [f"path,channels:later:rgb,channels:depth:gray,label,split{columns}"]
    rows += [
        f"{t}.png,{t + 5}.png,same.png,{t // 10},all"
        + (f",video{t // 10}" if columns else "")
        for t in numbers
    ]
    path.write_text("\n".join(rows))
    return sources.open_source(path, split="all")


def _files(source):
    return {place for places in source.places() for place in places}


def _clips(source):
    return {number // 10 for number in _numbers(source)}


def _numbers(source):
    names = [source.describe(i) for i in range(source.num_images)]
    return [int(name.rsplit("/", 1)[1].removesuffix(".png")) for name in names]


@pytest.mark.parametrize("fraction, images", [(0.1, 8), (0.2, 8), (0.4, 16), (0.5, 24)])
def test_a_holdout_leaves_each_file_on_one_side(tmp_path, fraction, images):
    source = _pairs(tmp_path / "pairs.csv", range(40))
    train, validation = sources.holdout(source, fraction=fraction)
    assert not _files(train) & _files(validation)
    assert sorted(_numbers(train) + _numbers(validation)) == list(range(40))
    # Every fifth frame hangs together: five parts of eight.
    assert validation.num_images == images
    again = sources.holdout(source, fraction=fraction)[1]
    assert _numbers(again) == _numbers(validation)
    # A part of a part still knows what belongs together.
    one, other = sources.holdout(train, fraction=0.5)
    assert not _files(one) & _files(other)


@pytest.mark.parametrize("columns", ["", ",clip"])
def test_every_number_of_channels_is_cut_alike(tmp_path, columns):
    path, numbers = tmp_path / "pairs.csv", range(40)
    if columns:
        numbers = [t for t in range(100) if t % 10 < 5]
    whole = _pairs(path, numbers, columns)
    cuts = [sources.holdout(whole, fraction=0.2, seed=2)]
    for channels in (1, 3):
        source = sources.open_source(path, split="all", channels=channels)
        assert source.channels == channels
        cuts.append(sources.holdout(source, fraction=0.2, seed=2))
    source = first_channels.of(whole, 3)
    cuts.append(sources.holdout(source, fraction=0.2, seed=2))
    names = [[*map(_numbers, cut)] for cut in cuts]
    assert names == names[:1] * 4


@pytest.mark.parametrize("channels", [None, 3])
def test_a_holdout_takes_whole_clips(tmp_path, channels):
    numbers = [t for t in range(100) if t % 10 < 5]  # No clip knows files of another.
    path = tmp_path / "pairs.csv"
    _pairs(path, numbers, ",clip")
    source = sources.open_source(path, split="all", channels=channels)
    train, validation = sources.holdout(source, fraction=0.2, seed=1)
    assert (train.num_images, validation.num_images) == (40, 10)
    assert not _clips(train) & _clips(validation)
    # Images without a label go with those of their clip.
    labels = np.where(np.arange(50) % 5 == 0, np.arange(50) // 25, -1)
    source.labels, source.class_names = labels, None
    train, validation = sources.holdout(source, fraction=0.2, seed=1)
    assert (train.num_images, validation.num_images) == (40, 10)
    assert not _clips(train) & _clips(validation)
    assert sorted(validation.labels[validation.labels >= 0]) == [0, 1]


def test_clips_of_one_image_are_cut_as_without(tmp_path):
    path = tmp_path / "list.csv"
    rows = [f"{t}.png,{t % 3}" for t in range(60)]
    path.write_text("path,label\n" + "\n".join(rows))
    expected = sources.holdout(sources.open_source(path), fraction=0.3, seed=5)
    rows = [f"{row},{t}" for t, row in enumerate(rows)]
    path.write_text("path,label,clip\n" + "\n".join(rows))
    found = sources.holdout(sources.open_source(path), fraction=0.3, seed=5)
    assert [*map(_numbers, found)] == [*map(_numbers, expected)]


def test_a_clip_that_is_all_or_too_large_is_not_cut(tmp_path):
    source = _pairs(tmp_path / "pairs.csv", range(10), ",clip")
    told = "fraction=0.5 of 10 labelled .* stay together, and .* has 1 such part"
    with pytest.raises(ValueError, match=told):
        sources.holdout(source, fraction=0.5)
    source = _pairs(tmp_path / "pairs.csv", range(20), ",clip")
    with pytest.raises(ValueError, match="has 1 such part"):  # 9 and 14 share a file.
        sources.holdout(source, fraction=0.1)


def test_a_class_keeps_images_to_learn_from_where_parts_allow_it():
    parts, labels = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    for order in (range(6), range(5, -1, -1)):
        (found,) = clips.held_out(parts, labels, np.array(order), 2)
        assert found in (1, 2)
    assert clips.held_out(parts, parts, np.arange(6), 2) == [0]  # All are the last.


@pytest.mark.parametrize("place", [0, 40, 80])
def test_a_large_clip_is_no_nearer_than_single_images(place):
    parts = np.r_[np.arange(1, place + 1), np.zeros(20), np.arange(place + 1, 81)]
    parts, labels = parts.astype(int), np.zeros(100, int)
    found = clips.held_out(parts, labels, np.arange(100), 10)
    assert len(found) == 10 and 0 not in found


def test_the_smallest_clip_that_is_too_large_comes_nearer():
    parts = np.repeat([0, 1, 2, 3], [9, 4, 7, 3])
    for count, expected in ((6, [1, 3]), (5, [1]), (12, [0, 3]), (2, [3])):
        found = clips.held_out(parts, 0 * parts, np.arange(23), count)
        assert found == expected, count
    assert clips.held_out(parts, 0 * parts, np.arange(23), 1) == []


def test_what_is_connected_by_others():
    found = clips.connected([("a", "b"), ("c",), ("b", "d"), (), ("d",), ("c",)])
    assert found.tolist() == [0, 1, 0, 3, 0, 1]

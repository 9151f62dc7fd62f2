import io
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets as sklearn_datasets

from tfssl.data import sources


def _pixels(source, index):
    return source.decode(source.read(tf.constant(index, tf.int64))).numpy()


def _images(count=6, channels=3, size=8, dtype=np.uint8):
    rng = np.random.default_rng(count)
    shape = (count, size, size, channels)
    if dtype in (np.float32, np.float64):
        return rng.uniform(size=shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def _write(path, image, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, kind)
    return path


# Digits -------------------------------------------------------------------------


def test_digits_are_cut_into_balanced_parts():
    train, test, whole = (sources.digits(s) for s in ("train", "test", "all"))
    assert (train.num_images, test.num_images, whole.num_images) == (1297, 500, 1797)
    assert train.class_names == tuple("0123456789")
    shares = np.bincount(whole.labels) / 1797
    for part in (train, test):
        assert part.channels == 1 and part.dtype == "uint8" and part.max_value == 255
        assert part.image_size == (32, 32) and not part.encoded
        counts = np.bincount(part.labels, minlength=10)
        # At most one image away from an exact share.
        assert np.abs(counts - shares * part.num_images).max() <= 1.5
    images = [_pixels(part, i).tobytes() for part in (train, test) for i in range(400)]
    assert len(set(images)) > 750  # No part repeats the other.
    opened = sources.open_source("digits")
    assert opened.fingerprint() == train.fingerprint() != test.fingerprint()
    assert opened.describe(17) == "digits/train[17]"


def test_digits_are_scikit_learns_enlarged():
    whole = sources.open_source("digits", split="all")
    data = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(whole.labels, data.target)
    for i in (0, 5, 1700):
        image = _pixels(whole, i)
        assert image.shape == (32, 32, 1) and image.dtype == np.uint8
        # The mean of each 4 x 4 block is about the pixel it was made from.
        blocks = image.reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
        small = data.images[i]
        assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97
        assert abs(blocks.mean() - small.mean()) < 0.5


def test_digits_have_three_splits():
    with pytest.raises(ValueError, match="split='dev' received for digits"):
        sources.open_source("digits", split="dev")


# Arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, white", [("uint8", 255), ("uint16", 65535)])
def test_arrays_of_integers(dtype, white):
    images = _images(dtype=np.dtype(dtype).type)
    source = sources.open_source((images, [3, 1, 4, 1, 5, 9]))
    assert (source.num_images, source.channels) == (6, 3)
    assert source.dtype == dtype and source.max_value == white
    assert source.image_size == (8, 8) and source.random_access
    assert source.labels.dtype == np.int64 and source.labels.tolist()[5] == 9
    for i in range(6):
        np.testing.assert_array_equal(_pixels(source, i), images[i])
    assert source.describe(2) == "array[2]"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_floats(dtype):
    images = _images(dtype=dtype)
    source = sources.open_source(images)
    assert source.dtype == "float32" and source.max_value == 1.0
    assert source.labels is None
    np.testing.assert_array_equal(_pixels(source, 1), images[1].astype(np.float32))


def test_arrays_without_a_channel_axis_and_of_many_channels():
    assert sources.open_source(np.zeros((2, 5, 4), np.uint8)).channels == 1
    source = sources.open_source(_images(channels=13))
    assert source.channels == 13 and _pixels(source, 0).shape == (8, 8, 13)


def test_a_source_is_read_inside_of_a_graph():
    images = _images()
    source = sources.open_source(images)
    dataset = tf.data.Dataset.range(6).map(source.read)
    np.testing.assert_array_equal(np.stack(list(dataset)), images)
    np.testing.assert_array_equal(_pixels(source, 4), images[4])


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\)"),
        (np.zeros((4, 0, 5, 3), np.uint8), "none of them 0"),
        (np.zeros((0, 5, 5, 3), np.uint8), "holds no image"),
        (np.zeros((2, 5, 5, 3), np.int32), "dtype int32"),
        (np.full((2, 5, 5, 3), 255.0), "from 255 to 255"),
        (np.full((2, 5, 5, 3), np.nan), "values in"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [1, 2, 3]), r"labels of shape \(3,\)"),
        ((np.zeros((2, 5, 5, 3), np.uint8), [[1], [2]]), r"labels of shape \(2, 1\)"),
        ([1, 2], "data of type list"),
        (None, "data of type NoneType"),
    ],
)
def test_bad_arrays(data, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(data)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"channels": 1}, "channels=1 received, but array has 3"),
        ({"labels": "yes"}, "labels='yes'"),
        ({"bit_depth": 12}, "bit_depth=12"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(_images(), **kwargs)


def test_labels_can_be_left_out_and_a_source_passes_through():
    pair = (_images(), np.arange(6))
    assert sources.open_source(pair, labels="none").labels is None
    source = sources.open_source(pair)
    assert sources.open_source(source) is source


# Folders ------------------------------------------------------------------------


def _tree(root):
    """Class folders: the files that count, sorted, and their images."""
    images = _images(4)
    names = ["b_cat/deep/z.PNG", "a_dog/1.png", "b_cat/2.png", "b_cat/10.png"]
    for name, image in zip(names, images):
        _write(root / name, image)
    found = dict(zip([str(root / name) for name in names], images))
    return dict(sorted(found.items()))


@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_folders_are_read_in_the_order_of_their_paths(tmp_path, prefix):
    files = _tree(tmp_path / "data")
    source = sources.open_source(f"{prefix}{tmp_path / 'data'}")
    assert [source.describe(i) for i in range(4)] == list(files)
    for i, image in enumerate(files.values()):
        np.testing.assert_array_equal(_pixels(source, i), image)
    assert source.channels == 3 and source.dtype == "uint8" and source.encoded
    assert source.labels is None and source.class_names is None
    assert source.image_size is None


def test_folder_names_are_labels_when_asked(tmp_path):
    _tree(tmp_path)
    source = sources.open_source(tmp_path, labels="folders")
    assert source.class_names == ("a_dog", "b_cat")
    assert source.labels.tolist() == [0, 1, 1, 1]
    assert sources.open_source(tmp_path, labels="none").labels is None
    _write(tmp_path / "lost.png", _images()[0])
    with pytest.raises(ValueError, match="outside of class folders"):
        sources.open_source(tmp_path, labels="folders")


def test_a_flat_folder_of_several_types(tmp_path):
    image = _images(1)[0]
    for i, kind in enumerate(["PNG", "BMP", "GIF", "JPEG"]):
        _write(tmp_path / f"{i}.{kind.lower()}", image, kind)
    (tmp_path / "notes.txt").write_text("no image")
    source = sources.open_source(tmp_path)
    assert source.num_images == 4
    np.testing.assert_array_equal(_pixels(source, 0), image)
    np.testing.assert_array_equal(_pixels(source, 1), image)
    for i in range(2, 4):
        with Image.open(source.describe(i)) as file:
            expected = np.asarray(file.convert("RGB")).astype(int)
        assert np.abs(_pixels(source, i).astype(int) - expected).max() <= 4


def test_hidden_files_and_links_out_of_the_folder_are_left_out(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "private"
    files = _tree(root)
    image = _images()[0]
    _write(root / ".hidden.png", image)
    _write(root / ".thumbnails" / "small.png", image)
    _write(outside / "secret.png", image)
    os.symlink(outside / "secret.png", root / "link.png")
    os.symlink(outside, root / "linked_folder")
    source = sources.open_source(root)
    assert [source.describe(i) for i in range(source.num_images)] == list(files)


def test_a_link_to_a_parent_folder_does_not_repeat_images(tmp_path):
    files = _tree(tmp_path)
    os.symlink(tmp_path, tmp_path / "b_cat" / "up")
    source = sources.open_source(tmp_path)
    assert [source.describe(i) for i in range(source.num_images)] == list(files)


def test_grey_and_sixteen_bit_files(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 900).reshape(8, 8)
    _write(tmp_path / "deep.png", deep)
    source = sources.open_source(tmp_path, channels=1, bit_depth=16)
    assert source.dtype == "uint16" and source.max_value == 65535
    np.testing.assert_array_equal(_pixels(source, 0)[..., 0], deep)
    source = sources.open_source(tmp_path, channels=1)
    assert source.dtype == "uint8"
    assert np.abs(_pixels(source, 0)[..., 0] - deep / 257.0).max() <= 1


def test_folders_that_give_nothing(tmp_path):
    with pytest.raises(ValueError, match="is no folder and none of digits"):
        sources.open_source(tmp_path / "missing")
    with pytest.raises(ValueError, match="is no folder"):
        sources.open_source("digitz")
    with pytest.raises(ValueError, match="holds no image file"):
        sources.open_source(tmp_path)
    _tree(tmp_path)
    with pytest.raises(ValueError, match="which has no splits"):
        sources.open_source(tmp_path, split="train")


# TFDS ---------------------------------------------------------------------------


def test_tfds_by_name(tmp_path):
    # What a prepared dataset knows of its splits; the images are made up.
    info = tfds.builder("cifar10", data_dir=tmp_path).info
    names = [("train", [7]), ("test", [5])]
    template = tfds.core.ShardedFileTemplate(
        data_dir=tmp_path, dataset_name="cifar10", filetype_suffix="tfrecord"
    )
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=lengths,
            num_bytes=9,
            filename_template=template.replace(split=name),
        )
        for name, lengths in names
    ]
    info.set_splits(tfds.core.SplitDict(splits))
    os.makedirs(info.data_dir)
    info.write_to_directory(info.data_dir)
    with tfds.testing.mock_data(num_examples=5, data_dir=tmp_path):
        source = sources.open_source("tfds:cifar10", split="test", data_dir=tmp_path)
    assert source.name == "tfds:cifar10/test"
    assert source.num_images == 5 and source.channels == 3
    assert len(source.class_names) == 10
    assert source.labels.shape == (5,) and (source.labels < 10).all()
    image = _pixels(source, 3)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert source.describe(3) == "tfds:cifar10/test[3]"


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Seven grey PNG images of 6 x 6, image i filled with 30 i."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(6, 6, 1)),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            ),
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(7):
            yield i, {"image": np.full((6, 6, 1), 30 * i, np.uint8), "label": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder.data_dir


def test_a_prepared_tfds_folder(prepared):
    source = sources.open_source(f"tfds-dir:{prepared}")
    assert source.num_images == 7 and source.channels == 1
    assert source.class_names == ("even", "odd")
    values = [_pixels(source, i) for i in range(7)]
    assert all((v == v[0, 0]).all() and v.shape == (6, 6, 1) for v in values)
    found = [int(v[0, 0, 0]) // 30 for v in values]
    assert sorted(found) == list(range(7))
    assert source.labels.tolist() == [i % 2 for i in found]
    again = sources.open_source(f"tfds-dir:{prepared}")
    assert again.fingerprint() == source.fingerprint()
    part = sources.open_source(f"tfds-dir:{prepared}", split="train[:3]", channels=3)
    assert part.num_images == 3 and _pixels(part, 0).shape == (6, 6, 3)
    assert part.labels.tolist() == source.labels.tolist()[:3]


def test_large_tfds_data_are_read_in_sequence(prepared, monkeypatch):
    small = sources.open_source(f"tfds-dir:{prepared}")
    monkeypatch.setattr(sources, "_MEMORY_BYTES", 10)
    source = sources.open_source(f"tfds-dir:{prepared}")
    assert not source.random_access and source.num_images == 7 and source.encoded
    for i, raw in source.stream():
        np.testing.assert_array_equal(source.decode(raw), _pixels(small, int(i)))
    np.testing.assert_array_equal(source.labels, small.labels)


def test_tfds_that_is_not_there(prepared, tmp_path):
    with pytest.raises(ValueError, match="TFDS cannot open 'no_such_set'"):
        sources.open_source("tfds:no_such_set", data_dir=tmp_path)
    with pytest.raises(ValueError, match="TFDS cannot open"):
        sources.open_source(f"tfds-dir:{tmp_path}")
    with pytest.raises(ValueError, match="split='dev' received.*train"):
        sources.open_source(f"tfds-dir:{prepared}", split="dev")


# tf.data ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["images", "pairs", "dicts"])
def test_datasets_of_the_user(form):
    images, labels = _images(), np.arange(6) % 4
    data = {
        "images": images,
        "pairs": (images, labels),
        "dicts": {"image": images, "label": labels, "id": labels},
    }[form]
    source = sources.open_source(tf.data.Dataset.from_tensor_slices(data))
    assert source.num_images == 6 and source.channels == 3
    assert source.image_size == (8, 8) and not source.random_access
    for place, (i, image) in enumerate(source.stream()):
        assert i == place
        np.testing.assert_array_equal(image, images[place])
    if form == "images":
        assert source.labels is None
    else:
        np.testing.assert_array_equal(source.labels, labels)
        assert source.labels.dtype == np.int64
    unlabelled = sources.open_source(
        tf.data.Dataset.from_tensor_slices(data), labels="none"
    )
    assert unlabelled.labels is None


def test_datasets_of_encoded_files():
    file = io.BytesIO()
    Image.fromarray(_images(1)[0]).save(file, "PNG")
    dataset = tf.data.Dataset.from_tensor_slices([file.getvalue()] * 3)
    source = sources.open_source(dataset)
    assert source.encoded and source.channels == 3 and source.num_images == 3
    for _, raw in source.stream():
        np.testing.assert_array_equal(source.decode(raw), _images(1)[0])


def test_datasets_that_cannot_be_used():
    images = tf.data.Dataset.from_tensor_slices(_images())
    with pytest.raises(ValueError, match="repeats for ever"):
        sources.open_source(images.repeat())
    with pytest.raises(ValueError, match="dtype int32"):
        sources.open_source(images.map(lambda x: tf.cast(x, tf.int32)))
    with pytest.raises(ValueError, match="known channels"):
        sources.open_source(images.batch(2))
    with pytest.raises(ValueError, match="expected images"):
        sources.open_source(images.map(lambda x: {"picture": x}))
    with pytest.raises(ValueError, match="holds no image"):
        sources.open_source(images.take(0))
    source = sources.open_source(images)
    with pytest.raises(ValueError, match="cannot be cut into parts"):
        sources.holdout(source)


# Parts --------------------------------------------------------------------------


def test_subset_numbers_anew(tmp_path):
    images = _images()
    source = sources.open_source((images, np.arange(6) * 10))
    part = source.subset([4, 1, 5])
    assert part.num_images == 3 and part.labels.tolist() == [40, 10, 50]
    for place, i in enumerate([4, 1, 5]):
        np.testing.assert_array_equal(_pixels(part, place), images[i])
    assert part.describe(0) == "array[4]"
    nested = part.subset([2], "last")
    assert nested.name == "last" and nested.labels.tolist() == [50]
    np.testing.assert_array_equal(_pixels(nested, 0), images[5])
    prints = {source.fingerprint(), part.fingerprint(), nested.fingerprint()}
    assert len(prints) == 3
    files = sources.open_source(str(tmp_path)) if _tree(tmp_path) else None
    some = files.subset([3, 0])
    assert some.describe(0) == files.describe(3) and some.encoded
    np.testing.assert_array_equal(_pixels(some, 1), _pixels(files, 0))


@pytest.mark.parametrize("indices", [[0, 6], [-1, 2]])
def test_subset_stays_inside(indices):
    with pytest.raises(ValueError, match="which has images 0 to 5"):
        sources.open_source(_images()).subset(indices)


def test_subset_of_nothing():
    with pytest.raises(ValueError, match="holds no image"):
        sources.open_source(_images()).subset([])


def _labelled(labels):
    # Image i is filled with i, to be told apart.
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] + np.zeros((1, 2, 2))
    return sources.ArraySource(images.astype(np.uint8), labels)


def _members(source):
    return [int(_pixels(source, i)[0, 0, 0]) for i in range(source.num_images)]


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


@pytest.mark.parametrize("labels", [None, [-1] * 20, [-1, 0] * 10])
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
def test_holdout_leaves_images_on_both_sides(fraction):
    with pytest.raises(ValueError, match="both sides"):
        sources.holdout(sources.open_source(_images()), fraction=fraction)


# Fingerprints -------------------------------------------------------------------


def test_fingerprint_of_arrays_follows_pixels_labels_and_shape():
    images = _images()
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


def test_fingerprint_of_folders_follows_names_and_sizes(tmp_path):
    files = _tree(tmp_path / "a")
    _tree(tmp_path / "b")
    a = sources.open_source(tmp_path / "a").fingerprint()
    assert sources.open_source(tmp_path / "b").fingerprint() == a  # Moved, the same.
    assert sources.open_source(tmp_path / "a", labels="folders").fingerprint() != a
    with open(next(iter(files)), "ab") as file:
        file.write(b"\0")
    assert sources.open_source(tmp_path / "a").fingerprint() != a
    os.rename(tmp_path / "b/a_dog/1.png", tmp_path / "b/a_dog/3.png")
    assert sources.open_source(tmp_path / "b").fingerprint() != a

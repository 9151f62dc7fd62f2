import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfssl.data import sources
from tfssl.data.sources import tfds as tfds_source


def test_tfds_by_name(tmp_path, pixels):
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
    image = pixels(source, 3)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert source.describe(3) == "tfds:cifar10/test[3]"


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Seven grey PNG images of 6 x 6, image i filled with 30 i; or what it is told."""

    features = {
        "image": tfds.features.Image(shape=(6, 6, 1)),
        "label": tfds.features.ClassLabel(names=["even", "odd"]),
    }
    made = staticmethod(
        lambda i: {"image": np.full((6, 6, 1), 30 * i, np.uint8), "label": i % 2}
    )

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.features),
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(7):
            yield i, self.made(i)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder.data_dir


def test_a_relative_folder_is_told_whole(prepared, monkeypatch):
    """To a data service, which runs in another."""
    folder, version = os.path.split(prepared)
    monkeypatch.chdir(folder)
    source = sources.open_source(f"tfds-dir:{version}")
    assert source.name == f"tfds:{version}/train"
    assert source.places()[0].startswith(f"{prepared}{os.sep}")


def test_a_prepared_tfds_folder(prepared, pixels):
    source = sources.open_source(f"tfds-dir:{prepared}")
    assert source.num_images == 7 and source.channels == 1
    assert source.class_names == ("even", "odd")
    values = [pixels(source, i) for i in range(7)]
    assert all((v == v[0, 0]).all() and v.shape == (6, 6, 1) for v in values)
    found = [int(v[0, 0, 0]) // 30 for v in values]
    assert sorted(found) == list(range(7))
    assert source.labels.tolist() == [i % 2 for i in found]
    again = sources.open_source(f"tfds-dir:{prepared}")
    assert again.fingerprint() == source.fingerprint()
    part = sources.open_source(f"tfds-dir:{prepared}", split="train[:3]", channels=3)
    assert part.num_images == 3 and pixels(part, 0).shape == (6, 6, 3)
    assert part.labels.tolist() == source.labels.tolist()[:3]


def test_large_tfds_data_are_read_in_sequence(prepared, monkeypatch, pixels):
    small = sources.open_source(f"tfds-dir:{prepared}")
    monkeypatch.setattr(tfds_source, "_MEMORY_BYTES", 10)
    source = sources.open_source(f"tfds-dir:{prepared}")
    assert not source.random_access and source.num_images == 7 and source.encoded
    for i, raw in source.stream():
        np.testing.assert_array_equal(source.decode(raw), pixels(small, int(i)))
    np.testing.assert_array_equal(source.labels, small.labels)


@pytest.mark.parametrize("split, count", [("train[:50%]", 4), ("train[5:]+train", 9)])
@pytest.mark.parametrize("known", [True, False])
def test_large_parts_are_read_in_sequence(
    split, count, known, prepared, monkeypatch, pixels
):
    small = sources.open_source(f"tfds-dir:{prepared}", split=split)
    assert small.random_access and small.num_images == count
    if known:
        monkeypatch.setattr(tfds_source, "_elements", list)  # It would take all.
    else:
        monkeypatch.setattr(tfds_source, "_bytes", lambda *_: 0)
    for limit in (count // 2 * 75, count * 500):
        monkeypatch.setattr(tfds_source, "_MEMORY_BYTES", limit)
        source = sources.open_source(f"tfds-dir:{prepared}", split=split)
        assert source.random_access == (limit == count * 500)
        assert source.num_images == count
        np.testing.assert_array_equal(source.labels, small.labels)
        if not source.random_access:
            for i, raw in source.stream():
                np.testing.assert_array_equal(source.decode(raw), pixels(small, int(i)))


def test_tfds_that_is_not_there(prepared, tmp_path):
    with pytest.raises(ValueError, match="TFDS cannot open 'no_such_set'"):
        sources.open_source("tfds:no_such_set", data_dir=tmp_path)
    with pytest.raises(ValueError, match="TFDS cannot open"):
        sources.open_source(f"tfds-dir:{tmp_path}")
    with pytest.raises(ValueError, match="split='dev' received.*train"):
        sources.open_source(f"tfds-dir:{prepared}", split="dev")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened(features, made)`: the source of data with other features."""

    def make(features, made):
        monkeypatch.setattr(Tiny, "features", features)
        monkeypatch.setattr(Tiny, "made", staticmethod(made))
        builder = Tiny(data_dir=tmp_path)
        builder.download_and_prepare()
        return sources.open_source(f"tfds-dir:{builder.data_dir}")

    return make


@pytest.mark.parametrize(
    "image, value, told",
    [
        (
            tfds.features.Image(shape=(6, 6, 1), dtype=np.float32),
            0.5,
            "Image of float32",
        ),
        (tfds.features.Tensor(shape=(6, 6, 1), dtype=np.uint8), 5, "Tensor of uint8"),
    ],
)
def test_images_that_are_no_files_are_refused(image, value, told, opened):
    with pytest.raises(ValueError, match=f"'image' of TFDS .* is {told}, expected"):
        opened(
            {"image": image},
            lambda i: {"image": np.full((6, 6, 1), value, image.np_dtype)},
        )


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.bool_])
def test_one_class_may_be_called_labels_and_be_any_number(kind, opened):
    features = {
        "image": Tiny.features["image"],
        "label": tfds.features.Text(),
        "labels": tfds.features.Scalar(kind),
    }
    source = opened(
        features,
        lambda i: {
            "image": np.full((6, 6, 1), i, np.uint8),
            "label": "a photo",
            "labels": kind(i % 2),
        },
    )
    pixels = [int(source.decode(source.read(i))[0, 0, 0]) for i in range(7)]
    assert source.labels.tolist() == [i % 2 for i in pixels]


def test_fractions_are_refused_where_labels_are_asked_for(opened):
    source = opened(
        {"image": Tiny.features["image"], "label": tfds.features.Scalar(np.float32)},
        lambda i: {"image": np.full((6, 6, 1), i, np.uint8), "label": i + 0.5},
    )
    assert source.num_images == 7
    assert sources.open_source(source, labels="none").fingerprint()
    with pytest.raises(ValueError, match="has the label .* expected whole numbers"):
        _ = source.labels


def test_labels_that_are_no_classes_are_left_out(opened, caplog):
    source = opened(
        {"image": Tiny.features["image"], "label": tfds.features.Text()},
        lambda i: {"image": np.full((6, 6, 1), i, np.uint8), "label": f"a photo {i}"},
    )
    assert source.labels is None and source.num_images == 7
    assert "'label' is Text of" in caplog.text and "is left out" in caplog.text

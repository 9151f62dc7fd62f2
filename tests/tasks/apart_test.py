"""Validation images that train are refused, wherever they come from."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl.data import sources
from tfssl.data.sources import tfds as tfds_source
from tfssl.tasks import make_tfrecords, resolve

PNG = tf.io.encode_png(np.full((4, 4, 3), 9, np.uint8)).numpy()


def _refused(count, **given):
    with pytest.raises(ValueError, match=f"^{count} of the .* among those that train"):
        resolve.sources(**given)


def test_parts_of_the_digits():
    _refused(500, data="digits", split="all", validation_split="test")
    _refused("1,297", data="digits", validation_data="digits")
    train, test = resolve.sources(data="digits", validation_split="test")
    assert (train.num_images, test.num_images) == (1297, 500)
    # Parts of a source lie where it does.
    one, other = sources.holdout(sources.open_source("digits"), fraction=0.5)
    _, found = resolve.sources(data=one, validation_data=other)
    assert found.num_images == other.num_images
    _refused(other.num_images, data="digits", validation_data=other)


def test_what_lies_in_memory():
    images = np.random.default_rng(0).integers(255, size=(6, 4, 4, 3), dtype=np.uint8)
    _refused(6, data=images, validation_data=images.copy())
    assert resolve.sources(data=images, validation_data=images[::-1])
    dataset = tf.data.Dataset.from_tensor_slices
    _refused(6, data=dataset(images), validation_data=dataset(images))
    assert resolve.sources(data=dataset(images), validation_data=dataset(images[:5]))


@pytest.fixture
def manifest(tmp_path):
    """Of 3 images that train and 2 that do not; they are alike."""
    rows = ["path,label,split"]
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(PNG)
        rows.append(f"{i}.png,{i % 2},{'train' if i < 3 else 'val'}")
    path = tmp_path / "all.csv"
    path.write_text("\n".join(rows))
    return str(path)


def test_files(manifest, tmp_path):
    _refused(2, data=manifest, split="all", validation_split="val")
    train, validation = resolve.sources(data=manifest, validation_split="val")
    assert (train.num_images, validation.num_images) == (3, 2)
    link = tmp_path.with_name("link")
    link.symlink_to(tmp_path)
    folder = sources.open_source(str(link), labels="none")
    _refused(2, data=folder, validation_data=manifest, validation_split="val")


def test_pictures_that_two_images_are_made_of(tmp_path):
    def pairs(name, rows):
        path = tmp_path / name
        path.write_text("path,channels:later:rgb,channels:depth:gray\n" + rows)
        return str(path)

    train = pairs("train.csv", "0.png,1.png,d.png\n2.png,3.png,d.png\n")
    for shared in ("4.png,3.png", "1.png,4.png"):
        other = pairs("other.csv", f"{shared},d.png\n5.png,6.png,d.png\n")
        with pytest.raises(ValueError, match="^1 of the 2 .* have pictures in common"):
            resolve.sources(data=train, validation_data=other)
    # Depth may be that of several images.
    resolve.sources(data=train, validation_data=pairs("apart.csv", "5.png,6.png,d.png"))
    single = pairs("single.csv", "3.png,x.png,d.png")
    with pytest.raises(ValueError, match="have pictures in common with those that"):
        resolve.sources(data=sources.open_source(single, channels=3),
                        validation_data=train)  # fmt: skip


def test_links_to_files(manifest, tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "1.png")
    (folder / "b.png").symlink_to("a.png")
    (folder / "c.png").write_bytes(PNG)
    others = sources.open_source(str(folder), labels="none", follow_links=True)
    assert others.num_images == 3
    _refused(2, data=manifest, validation_data=others)


def test_records(manifest, tmp_path):
    source = sources.open_source(manifest, split="all")
    index = make_tfrecords.make_tfrecords(
        source, str(tmp_path / "records"), num_shards=2, verbose=0
    )
    whole, shard = f"tfrecord:{index}", index.replace(".json", "-00001*")
    _refused(5, data=whole, validation_data=whole)
    _refused(3, data=whole, validation_data=f"tfrecord:{shard}")


@pytest.mark.parametrize("memory", [True, False])
def test_parts_of_tfds_splits(memory, tmp_path, monkeypatch):
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="alike",
        version="1.0.0",
        data_dir=tmp_path,
        config="all",
        split_datasets={
            name: [
                (i, {"image": np.full((4, 4, 3), 9, np.uint8)}) for i in range(count)
            ]
            for name, count in (("train", 8), ("test", 4))
        },
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(4, 4, 3))}
        ),
        disable_shuffling=True,
    )
    if not memory:
        monkeypatch.setattr(tfds_source, "_MEMORY_BYTES", 1)
    data = f"tfds-dir:{builder.data_path}"
    _refused(8, data=data, validation_data=data)
    _refused(2, data=data, split="train", validation_split="train[:25%]")
    _refused(4, data=data, split="train+test", validation_split="test")
    for one, other in (("train[:50%]", "train[50%:]"), ("train", "test")):
        train, _ = resolve.sources(data=data, split=one, validation_split=other)
        assert train.random_access == memory

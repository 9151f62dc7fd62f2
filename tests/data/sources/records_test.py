"""Indexes of records, and those that are wrong."""

import json

import numpy as np
import pytest

from tfssl.data import pipeline, preprocessing, sources
from tfssl.data.sources import record_writer


def _values(source):
    found = [source.decode(source.read(i)) for i in range(source.num_images)]
    return [int(image[0, 0, 0]) for image in found]


@pytest.fixture
def index(tmp_path):
    """An index of two shards with one record each."""
    source = sources.ArraySource(np.zeros((2, 4, 5, 3), np.uint8), [1, 0])
    paths = record_writer.shard_paths(str(tmp_path), "x", 2)
    notes = []
    for i, path in enumerate(paths):
        writer = record_writer.ShardWriter(path)
        image = np.full((4, 5, 3), i, np.uint8)
        record = record_writer.example(image, height=4, width=5, name=f"<{i}>")
        writer.write(record, f"<{i}>", 1 - i)
        notes.append(writer.finish(labelled=True, skipped=[], origin={"a": 1}))
    path = tmp_path / "x.json"
    record_writer.write_index(
        str(path), paths, notes, source=source, pixels=True, origin={"a": 1}
    )
    return path


def test_an_index_gives_names_labels_and_pixels(index):
    source = sources.open_source(f"tfrecord:{index}", verify=True)
    assert _values(source) == [0, 1] and source.labels.tolist() == [1, 0]
    assert [source.describe(i) for i in range(2)] == ["<0>", "<1>"]
    with pytest.raises(ValueError, match="channels=1 received.* has 3"):
        sources.open_source(f"tfrecord:{index}", channels=1)


def _changed(index, change):
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format="other"), "is no index of records .*format 'other'"),
        (lambda c: c.pop("shards"), "is no index of records .KeyError: 'shards'"),
        (
            lambda c: c["shards"][0]["lengths"].append(3),
            "lists of other lengths than 1",
        ),
        (lambda c: c["shards"][0].update(file="../x"), "'../x' in another folder"),
        (lambda c: c.update(num_images=3), "num_images 3"),
        (lambda c: c.update(dtype="object"), "is no index of records .*dtype=.object"),
        (lambda c: c.update(channels="3"), "channels=.3"),
        (lambda c: c.update(pixels=None), "pixels=None"),
        (lambda c: c["shards"][0].update(labels=[0.9]), "label 0.9"),
        (lambda c: c["shards"][0].update(labels=[[0, 1]]), r"label \[0, 1\]"),
        (lambda c: c.update(class_names=["ant"]), "label 1"),
        (lambda c: c["shards"][1].update(lengths=[7]), "has [0-9]+ bytes, but 23 by"),
    ],
)
def test_an_index_that_is_wrong(index, change, message):
    _changed(index, change)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"tfrecord:{index}")


def test_a_shard_without_labels_is_unlabelled_the_others_are_not(index):
    _changed(index, lambda c: c["shards"][0].update(labels=None))
    assert sources.open_source(f"tfrecord:{index}").labels.tolist() == [-1, 0]
    _changed(index, lambda c: c["shards"][1].update(labels=None))
    assert sources.open_source(f"tfrecord:{index}").labels is None


def _float_index(folder, images):
    """An index of records of float pixels, as `make_tfrecords` writes them."""
    valid = sources.ArraySource(np.zeros_like(images))
    (path,) = record_writer.shard_paths(str(folder), "f", 1)
    writer = record_writer.ShardWriter(path)
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        record = record_writer.example(image, height=height, width=width, name=f"<{i}>")
        writer.write(record, f"<{i}>", None)
    notes = [writer.finish(labelled=False, skipped=[], origin={})]
    index = str(folder / "f.json")
    record_writer.write_index(
        index, [path], notes, source=valid, pixels=True, origin={}
    )
    return f"tfrecord:{index}"


@pytest.mark.parametrize("value", [128.0, -1.0, np.nan])
def test_records_of_floats_outside_of_0_and_1(tmp_path, value):
    images = np.full((40, 4, 4, 1), 0.5, np.float32)
    assert sources.open_source(_float_index(tmp_path, images)).num_images == 40
    images[1, 0, 0, 0] = value  # Not among those that are looked at first.
    source = sources.open_source(_float_index(tmp_path, images))
    path = preprocessing.Preprocessing(size=4, channels=1)
    bad = pipeline.BadFiles(0.1)
    batches = list(pipeline.labeled(source, path, batch_size=40, bad_files=bad))
    assert batches[0]["mask"].numpy().sum() == 39
    assert bad.listed == ["<1> (float values outside of [0, 1])"]
    images[:] = value
    with pytest.raises(
        ValueError, match=r"Float images .* \(<0>\), expected values in"
    ):
        sources.open_source(_float_index(tmp_path, images))


def test_shards_that_are_missing_cut_or_no_index_at_all(index, tmp_path):
    shard = tmp_path / "x-00001-of-00002.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="00001-of-00002.tfrecord has .*cut short"):
        sources.open_source(f"tfrecord:{index}")
    shard.unlink()
    with pytest.raises(ValueError, match="00001-of-00002.tfrecord is missing"):
        sources.open_source(f"tfrecord:{index}")
    index.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no index of records .RecursionError"):
        sources.open_source(f"tfrecord:{index}")
    index.write_text("{")
    with pytest.raises(ValueError, match="is no index of records"):
        sources.open_source(f"tfrecord:{index}")
    with pytest.raises(ValueError, match="no index at .*other.json"):
        sources.open_source(f"tfrecord:{tmp_path}/other.json")

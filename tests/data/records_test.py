"""Record files that others wrote, and files that are damaged."""

import gzip
import json

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import record_writer, records, sources


def _png(value):
    return tf.io.encode_png(np.full((4, 5, 3), value, np.uint8)).numpy()


def _example(**values):
    feature = {}
    for key, value in values.items():
        key = key.replace("__", "/")
        if isinstance(value, bytes):
            one = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        else:
            one = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        feature[key] = one
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString()


def _write(path, examples, options=None):
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for example in examples:
            writer.write(example)
    return path


def _values(source):
    found = [source.decode(source.read(i)) for i in range(source.num_images)]
    return [int(image[0, 0, 0]) for image in found]


@pytest.mark.parametrize("verify", [False, True])
def test_a_pattern_of_files_that_others_wrote(tmp_path, verify):
    for shard, values in enumerate([[1, 2, 3], [], [4]]):
        examples = [
            _example(image__encoded=_png(v), image__class__label=v * 10, other=b"x")
            for v in values
        ]
        _write(tmp_path / f"train-{shard}", examples)
    source = sources.open_source(f"tfrecord:{tmp_path}/train-*", verify=verify)
    assert source.num_images == 4 and source.channels == 3
    assert _values(source) == [1, 2, 3, 4]
    assert source.labels.tolist() == [10, 20, 30, 40]
    assert source.describe(3) == f"{tmp_path}/train-2[0]"
    part = source.subset([3, 0])
    assert _values(part) == [4, 1] and part.labels.tolist() == [40, 10]
    grey = sources.open_source(f"tfrecord:{tmp_path}/train-*", channels=1)
    assert grey.decode(grey.read(0)).shape == (4, 5, 1)


def test_labels_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    calls = []
    read = records._read_labels
    monkeypatch.setattr(records, "_read_labels", lambda p: calls.append(p) or read(p))
    examples = [_example(image__encoded=_png(1), image__class__label=7)]
    path = _write(tmp_path / "a", [*examples, _example(image__encoded=_png(2))])
    source = sources.open_source(f"tfrecord:{path}")
    sources.open_source(source, labels="none").fingerprint()
    assert not calls
    assert source.labels.tolist() == source.labels.tolist() == [7, -1]
    assert len(calls) == 1
    path = _write(tmp_path / "b", [_example(image__encoded=_png(1))])
    assert sources.open_source(f"tfrecord:{path}").labels is None


def test_fingerprints_follow_names_and_lengths(tmp_path):
    a, b = _example(image__encoded=_png(1)), _example(image__encoded=_png(2) + b"\0")
    prints = []
    for name, content in (("a", [a, b]), ("a", [a, b]), ("a", [b, a]), ("b", [a, b])):
        path = _write(tmp_path / name, content)
        prints.append(sources.open_source(f"tfrecord:{path}").fingerprint())
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_files_that_cannot_be_used(tmp_path):
    good = _write(tmp_path / "good", [_example(image__encoded=_png(1))] * 3)
    content = good.read_bytes()

    def refused(name, new, message):
        path = tmp_path / name
        path.write_bytes(new)
        with pytest.raises(ValueError, match=message) as caught:
            sources.open_source(f"tfrecord:{path}")
        assert str(path) in str(caught.value)

    refused("cut", content[:-1], "cut short, or no TFRecord file: record 2")
    refused("cut2", content[: -len(content) // 3 + 4], "cut short")
    refused("text", b"path,label\nx.png,1\n" * 9, "cut short, or no TFRecord file")
    refused("zip", gzip.compress(content), "is compressed")
    refused("none", b"", "hold no record")
    other = _write(tmp_path / "o", [_example(image=_png(1), label=3)]).read_bytes()
    refused("tfds", other, "no 'image/encoded' but image, label; for TFDS use tfds-dir")
    refused("proto", _write(tmp_path / "p", [b"\xff" * 9]).read_bytes(), "tf.train.Ex")
    with pytest.raises(ValueError, match="No file matches tfrecord:.*nothing"):
        sources.open_source(f"tfrecord:{tmp_path}/nothing-*")


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
        (lambda c: c["shards"][1].update(lengths=[7]), "has [0-9]+ bytes, but 23 by"),
    ],
)
def test_an_index_that_is_wrong(index, change, message):
    _changed(index, change)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"tfrecord:{index}")


def test_shards_that_are_missing_cut_or_no_index_at_all(index, tmp_path):
    shard = tmp_path / "x-00001-of-00002.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="00001-of-00002.tfrecord has .*cut short"):
        sources.open_source(f"tfrecord:{index}")
    shard.unlink()
    with pytest.raises(ValueError, match="00001-of-00002.tfrecord is missing"):
        sources.open_source(f"tfrecord:{index}")
    index.write_text("{")
    with pytest.raises(ValueError, match="is no index of records"):
        sources.open_source(f"tfrecord:{index}")
    with pytest.raises(ValueError, match="no index at .*other.json"):
        sources.open_source(f"tfrecord:{tmp_path}/other.json")

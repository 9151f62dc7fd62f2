"""Record files that others wrote, and files that are damaged."""

import gzip
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import pipeline, preprocessing, sources
from tfssl.data.sources import record_files


def _png(value):
    return tf.io.encode_png(np.full((4, 5, 3), value, np.uint8)).numpy()


_KINDS = {
    bytes: ("bytes_list", tf.train.BytesList),
    int: ("int64_list", tf.train.Int64List),
    float: ("float_list", tf.train.FloatList),
}


def _example(**values):
    feature = {}
    for key, value in values.items():
        value = value if isinstance(value, list) else [value]
        kind = type(value[0]) if value else int
        name, make = _KINDS[kind]
        feature[key.replace("__", "/")] = tf.train.Feature(**{name: make(value=value)})
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
    read = record_files.labels
    monkeypatch.setattr(record_files, "labels", lambda s: calls.append(s) or read(s))
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
    refused("gzip", gzip.compress(content), "is compressed .gzip")
    refused("zlib", zlib.compress(content), "is compressed .zlib")
    two = _write(tmp_path / "t", [_example(image__encoded=[_png(1), _png(2)])])
    refused("two", two.read_bytes(), "has 2 images in 'image/encoded', expected one")
    refused("none", b"", "hold no record")
    other = _write(tmp_path / "o", [_example(image=_png(1), label=3)]).read_bytes()
    refused("tfds", other, "no 'image/encoded' but image, label; for TFDS use tfds-dir")
    refused("proto", _write(tmp_path / "p", [b"\xff" * 9]).read_bytes(), "tf.train.Ex")
    with pytest.raises(ValueError, match="No file matches tfrecord:.*nothing"):
        sources.open_source(f"tfrecord:{tmp_path}/nothing-*")
    with pytest.raises(ValueError, match="is a folder; expected an index"):
        sources.open_source(f"tfrecord:{tmp_path}")
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    with pytest.raises(ValueError, match="matches the folder .*/sub/deep"):
        sources.open_source(f"tfrecord:{tmp_path}/sub/*")


def test_a_record_whose_length_looks_like_gzip_is_read(tmp_path):
    # 35,615 is 1f 8b in the file, 40,056 is 78 9c.
    for length in (35_615, 40_056):
        sizes = range(length - 400, length)
        records = (_example(image__encoded=_png(1), filler=bytes(n)) for n in sizes)
        record = next(r for r in records if len(r) == length)
        path = _write(tmp_path / str(length), [record])
        assert sources.open_source(f"tfrecord:{path}").num_images == 1


def test_brackets_are_a_pattern_or_stand_for_themselves(tmp_path):
    (tmp_path / "data [v1]").mkdir()
    for name in ("a-0", "a-1", "a-2"):
        _write(tmp_path / "data [v1]" / name, [_example(image__encoded=_png(1))])
    for pattern, count in (("data [v1]/a-*", 3), ("data [[]v1]/a-[01]", 2)):
        source = sources.open_source(f"tfrecord:{tmp_path}/{pattern}")
        assert source.num_images == count


def test_damaged_records_are_unlabelled_and_listed(tmp_path, caplog):
    examples = [
        _example(image__encoded=_png(i), image__class__label=i) for i in range(10)
    ]
    path = _write(tmp_path / "a", examples)
    content = bytearray(path.read_bytes())
    place = len(content) // 10 * 3 + len(content) // 20  # In the middle of record 3.
    content[place] ^= 1
    content[-20] ^= 1  # In record 9.
    path.write_bytes(content)
    source = sources.open_source(f"tfrecord:{path}")
    with caplog.at_level("WARNING", "absl"):
        assert source.labels.tolist() == [0, 1, 2, -1, 4, 5, 6, 7, 8, -1]
    assert "2 damaged record(s) count as unlabelled" in caplog.text
    assert f"{path}[3], {path}[9]" in caplog.text
    bad = pipeline.BadFiles(0.3)
    path = preprocessing.Preprocessing(size=4)
    (batch,) = pipeline.labeled(source, path, batch_size=10, bad_files=bad)
    assert batch["label"].numpy()[:8].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert bad.files == [source.describe(3), source.describe(9)]


def test_a_damaged_first_record_does_not_stop_the_others(tmp_path):
    examples = [_example(image__encoded=_png(i), image__class__label=i) for i in (3, 4)]
    path = _write(tmp_path / "a", examples)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert sources.open_source(f"tfrecord:{path}").labels.tolist() == [-1, 4]


def test_labels_that_only_later_records_have(tmp_path):
    plain, labelled = (
        _example(image__encoded=_png(1), **label)
        for label in ({}, {"image__class__label": 7})
    )
    path = _write(tmp_path / "a", [plain, labelled, plain])
    assert sources.open_source(f"tfrecord:{path}").labels.tolist() == [-1, 7, -1]
    _write(tmp_path / "b-0", [plain] * 300)
    _write(tmp_path / "b-1", [labelled] * 100)
    source = sources.open_source(f"tfrecord:{tmp_path}/b-*")
    assert source.labels.tolist() == [-1] * 300 + [7] * 100


@pytest.mark.parametrize(
    "label, message",
    [
        ([1, 2], "has 2 numbers"),
        ([1.0], "has floats"),
        ([b"cat"], "has text"),
        ([], "has 0 numbers"),
    ],
)
def test_labels_that_are_not_one_whole_number(tmp_path, label, message):
    good = _example(image__encoded=_png(1), image__class__label=3)
    bad = _example(image__encoded=_png(1), image__class__label=label)
    path = _write(tmp_path / "a", [good, good, bad])
    source = sources.open_source(f"tfrecord:{path}")
    assert sources.open_source(f"tfrecord:{path}", labels="none").num_images == 3
    with pytest.raises(ValueError, match=message) as caught:
        _ = source.labels
    assert str(caught.value).startswith(f"{path}[2] ")

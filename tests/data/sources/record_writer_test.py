import json

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data.sources import record_writer


def _features(record):
    found = tf.train.Example.FromString(record).features.feature
    return {
        key: (list(value.bytes_list.value) or list(value.int64_list.value))[0]
        for key, value in found.items()
    }


@pytest.mark.parametrize(
    "encode, kind",
    [(tf.io.encode_png, b"png"), (tf.io.encode_jpeg, b"jpeg"), (None, b"")],
)
def test_example_of_a_file(encode, kind):
    file = encode(np.zeros((4, 5, 3), np.uint8)).numpy() if encode else b"?"
    record = record_writer.example(
        file, height=4, width=5, name="ä.png", label=3, class_name="cat"
    )
    assert _features(record) == {
        "image/encoded": file,
        "image/format": kind,
        "image/height": 4,
        "image/width": 5,
        "image/filename": "ä.png".encode(),
        "image/class/label": 3,
        "image/class/text": b"cat",
    }


def test_example_of_pixels_is_little_endian():
    image = np.arange(12, dtype=">u2").reshape(2, 3, 2) * 300
    found = _features(record_writer.example(image, height=2, width=3, name="x"))
    # 300 is 0x012c: its low byte comes first.
    assert found["image/pixels"][2:4] == b"\x2c\x01"
    assert len(found["image/pixels"]) == 24
    assert "image/class/label" not in found and "image/encoded" not in found


def test_a_shard_has_its_name_when_it_is_complete(tmp_path):
    (path,) = record_writer.shard_paths(str(tmp_path), "x", 1)
    assert path == f"{tmp_path}/x-00000-of-00001.tfrecord"
    writer = record_writer.ShardWriter(path)
    writer.write(b"abc", "first", None)
    assert [p.name for p in tmp_path.iterdir()] == ["x-00000-of-00001.tfrecord.part"]
    writer.abandon()
    assert not list(tmp_path.iterdir())
    writer = record_writer.ShardWriter(path)
    writer.write(b"abc", "first", None)
    writer.write(b"defgh", "second", 4)
    note = writer.finish(labelled=True, skipped=["third"], origin={})
    assert note["lengths"] == [3, 5] and note["labels"] == [-1, 4]
    # Each record has 16 bytes around it.
    assert note["bytes"] == 3 + 5 + 32 == (tmp_path / note["file"]).stat().st_size
    assert json.loads((tmp_path / f"{note['file']}.json").read_text()) == note


def test_done_tells_finished_shards_from_others(tmp_path):
    paths = record_writer.shard_paths(str(tmp_path), "x", 3)
    index, origin = f"{tmp_path}/x.json", {"fingerprint": "f", "pixels": False}
    assert record_writer.done(paths, index, origin) == [None] * 3
    notes = []
    for path in paths[:2]:
        writer = record_writer.ShardWriter(path)
        writer.write(b"abc", "n", None)
        notes.append(writer.finish(labelled=False, skipped=[], origin=origin))
    assert record_writer.done(paths, index, origin) == [*notes, None]
    (tmp_path / notes[0]["file"]).write_bytes(b"changed")
    assert record_writer.done(paths, index, origin) == [None, notes[1], None]
    with pytest.raises(ValueError, match=r"other images or options \(pixels differ\)"):
        record_writer.done(paths, index, {**origin, "pixels": True})
    (tmp_path / f"{notes[1]['file']}.json").write_text("")  # Its shard is made anew.
    assert record_writer.done(paths, index, origin) == [None] * 3

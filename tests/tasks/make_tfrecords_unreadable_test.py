"""Records of images some of which cannot be read, or are not there."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.make_tfrecords_test import make
from tfssl.data import sources
from tfssl.data.sources import records


def test_bad_images_are_left_out_and_listed(tmp_path):
    good = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy()
    huge = good[:16] + (20_000).to_bytes(4, "big") * 2 + good[24:]
    (tmp_path / "data").mkdir()
    for i in range(10):
        content = {4: huge, 5: b"text"}.get(i, good)
        (tmp_path / "data" / f"{i}.png").write_bytes(content)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 10 images .*4\.png \(too large"):
        make(str(tmp_path / "data"), out, num_shards=2)
    # The shard that was begun has no name; nothing is left, not even the folder.
    assert not out.exists()
    index = make(str(tmp_path / "data"), out, num_shards=2, max_bad_fraction=0.2)
    shards = records.read_index(index)["shards"]
    assert [s["count"] for s in shards] == [4, 4]
    skipped = shards[0]["skipped"] + shards[1]["skipped"]
    assert [name.partition(str(tmp_path))[2] for name in skipped] == [
        "/data/4.png (too large: more than 100 megapixels)",
        "/data/5.png",
    ]
    assert sources.open_source(f"tfrecord:{index}").num_images == 8


@pytest.mark.parametrize("form", ["folder", "manifest"])
def test_missing_images_are_left_out_and_listed(tmp_path, form):
    root = tmp_path / "data"
    root.mkdir()
    for i in range(5):
        image = np.full((8, 8, 3), i, np.uint8)
        (root / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    names = ["path", *(f"data/{i}.png" for i in range(6))]
    (tmp_path / "list.csv").write_text("\n".join(names))
    (root / "5.png").symlink_to(root / "nowhere.png")
    data = str(root if form == "folder" else tmp_path / "list.csv")
    index = make(data, tmp_path / "out", num_shards=2, max_bad_fraction=0.2)
    assert sources.open_source(f"tfrecord:{index}").num_images == 5
    skipped = [entry["skipped"] for entry in records.read_index(index)["shards"]]
    assert [len(names) for names in skipped] == [0, 1]
    assert skipped[1][0].endswith("5.png (missing)")
    with pytest.raises(ValueError, match=r"1 of 6 .*5.png \(missing\)"):
        make(data, tmp_path / "none", num_shards=2, max_bad_fraction=0.1)

import json
import os

import numpy as np
import pytest

from tfssl.data import sources


@pytest.fixture
def folder(tmp_path, make_images, write_image):
    """Six images `0.png` to `5.png` in `data/in`, and their pixels."""
    images = make_images(6)
    for i, image in enumerate(images):
        write_image(tmp_path / "data" / "in" / f"{i}.png", image)
    return tmp_path / "data", images


def _csv(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


_ROWS = """path,label,split,camera
in/3.png,cat,train,a
in/0.png,dog,test,b
"in/5.png",cat,train,"x, y"

in/1.png,,train,c
in/2.png,ant,test,d
"""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("prefix", ["", "manifest:"])
def test_rows_give_files_labels_and_splits(folder, pixels, kind, prefix):
    root, images = folder
    text = _ROWS
    if kind == "jsonl":
        rows = [
            {"path": "in/3.png", "label": "cat", "split": "train", "camera": "a"},
            {"path": "in/0.png", "label": "dog", "split": "test"},
            {"path": "in/5.png", "label": "cat", "split": "train"},
            {"path": "in/1.png", "label": None, "split": "train"},
            {"path": "in/2.png", "label": "ant", "split": "test"},
        ]
        text = "\n\n".join(json.dumps(row) for row in rows)
    data = f"{prefix}{_csv(root / f'list.{kind}', text)}"
    # Classes are numbered over all splits: ant 0, cat 1, dog 2.
    expected = {
        None: ([3, 5, 1], [1, 1, -1]),
        "train": ([3, 5, 1], [1, 1, -1]),
        "test": ([0, 2], [2, 0]),
        "all": ([3, 0, 5, 1, 2], [1, 2, 1, -1, 0]),
    }
    for split, (places, labels) in expected.items():
        source = sources.open_source(data, split=split)
        assert source.labels.tolist() == labels
        assert source.class_names == ("ant", "cat", "dog")
        for i, place in enumerate(places):
            np.testing.assert_array_equal(pixels(source, i), images[place])
            assert source.describe(i) == str(root / "in" / f"{place}.png")
    assert sources.open_source(data, labels="none").labels is None


def test_labels_that_are_numbers_and_no_labels(folder):
    root, _ = folder
    text = "path,label\nin/0.png,7\nin/1.png,\nin/2.png,-1\nin/3.png,0\n"
    source = sources.open_source(_csv(root / "a.csv", text))
    assert source.labels.tolist() == [7, -1, -1, 0] and source.class_names is None
    source = sources.open_source(_csv(root / "b.csv", "label,path\n,in/0.png\n"))
    assert source.labels is None
    text = '{"path": "in/0.png", "label": 3}\n{"path": "in/1.png"}'
    assert sources.open_source(_csv(root / "c.jsonl", text)).labels.tolist() == [3, -1]
    ids = _csv(root / "d.csv", "path,label\nin/0.png,3000001\nin/1.png,-1\n")
    with pytest.raises(
        ValueError, match="up to 3000001 of 1 classes.* from 0, or give"
    ):
        sources.open_source(ids)


def test_whole_numbers_as_pandas_writes_them(folder):
    root, _ = folder

    def labels(texts, kind="csv"):
        rows = [f"in/{i}.png,{text}" for i, text in enumerate(texts)]
        text = "path,label\n" + "\n".join(rows)
        if kind == "jsonl":
            rows = [
                f'{{"path": "in/{i}.png", "label": {t}}}' for i, t in enumerate(texts)
            ]
            text = "\n".join(rows)
        source = sources.open_source(_csv(root / f"list.{kind}", text))
        return source.labels.tolist(), source.class_names

    given = ["11.0", "2.0", "", "0.00", "-1.0", "7"]
    assert labels(given) == ([11, 2, -1, 0, -1, 7], None)
    assert labels(["11.0", "2.0", "null", "0.0"], "jsonl") == ([11, 2, -1, 0], None)
    # Of names that are no whole numbers all are names.
    assert labels(["1.0", "1.5", "2.0"]) == ([0, 1, 2], ("1.0", "1.5", "2.0"))
    with pytest.raises(ValueError, match="line 2: label 0.5, expected a whole number"):
        labels(["1.0", "0.5"], "jsonl")
    path = _csv(root / "sets.csv", "path,labels\nin/0.png,0.0|2.0\nin/1.png,1.0\n")
    assert sources.open_source(path).label_sets.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_a_byte_order_mark_and_windows_lines(folder):
    root, _ = folder
    path = _csv(root / "a.csv", "\ufeffpath,label\r\nin/0.png,1\r\nin/1.png,2\r\n")
    assert sources.open_source(path).labels.tolist() == [1, 2]


def test_options_of_files(folder, write_image, pixels):
    root, _ = folder
    deep = (np.arange(64, dtype=np.uint16) * 900).reshape(8, 8)
    write_image(root / "deep.png", deep)
    path = _csv(root / "a.csv", "path\ndeep.png\n")
    source = sources.open_source(path, channels=1, bit_depth=16)
    np.testing.assert_array_equal(pixels(source, 0)[..., 0], deep)


def test_files_stay_in_the_folder_or_in_root(folder, tmp_path, write_image):
    root, images = folder
    outside = write_image(tmp_path / "store" / "x.png", images[0])
    os.symlink(outside, root / "link.png")
    os.symlink(outside.parent, root / "linked")
    os.symlink(root / "in" / "0.png", root / "fine.png")
    inside = [str(root / "in" / "1.png"), "in/../in/2.png", "fine.png", "./in/3.png"]
    out = ["../store/x.png", str(outside), "link.png", "linked/x.png", "in/../../a.png"]
    for i, given in enumerate(inside):
        path = _csv(root / f"in{i}.csv", f"path\n{given}\n")
        assert sources.open_source(path).num_images == 1
    for i, given in enumerate(out):
        path = _csv(root / f"out{i}.csv", f"path\nin/0.png\n{given}\n")
        with pytest.raises(
            ValueError, match=r"\.csv, line 3: .* lies outside of .*root"
        ):
            sources.open_source(path)
        if i < 4:
            source = sources.open_source(path, root=tmp_path / "store")
            assert source.num_images == 2
    # A folder whose name begins like the allowed one is another folder.
    write_image(tmp_path / "data2" / "y.png", images[0])
    path = _csv(root / "twin.csv", "path\n../data2/y.png\n")
    with pytest.raises(ValueError, match="lies outside"):
        sources.open_source(path)
    path = _csv(root / "bucket.csv", "path\ngs://b/a/../../c/x.png\n")
    with pytest.raises(ValueError, match="lies outside"):
        sources.open_source(path, root="gs://b/a")
    path = _csv(root / "bucket.csv", "path\ngs://b/a/x.png\n")
    assert sources.open_source(path, root="gs://b/a").num_images == 1


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "path\nx.png\nhttps://web/x.png\n", "line 3: .*web address"),
        ("a.csv", "path\nx.png\ny.png\n./x.png\n", "line 4: .*again, as in line 2"),
        ("a.csv", "file,label\nx.png,1\n", "line 1: .*file, label, but none.*'path'"),
        ("a.csv", "path, label, split\nx, 1, test\n", "line 1: a column ' label', ex"),
        ("a.csv", "Path,label\nx.png,1\n", "line 1: a column 'Path', expected 'path'"),
        ("a.csv", "path,label,label\nx,1,2\n", "line 1: several columns 'label'; le"),
        ("a.jsonl", '{"path": "x.png", "Label": 1}\n', "line 1: a column 'Label', exp"),
        ("a.csv", "path,label\nx.png,1,2\n", "line 2: 3 values for 2 columns; quote"),
        ("a.csv", "path,label\nx.png\n", "line 2: 1 values for 2 columns"),
        ("a.csv", "path\n\"x.png\n", "line 2: not CSV"),
        ("a.csv", "path,label\nx.png,1\ny.png,cat\n", "line 3: .*numbers.*names"),
        ("a.csv", "path,label\nx.png,-2\n", "line 2: label -2, expected"),
        ("a.csv", "path,split\nx.png,train\ny.png,\n", "line 3: split ''"),
        ("a.csv", "path,label\n,1\n", "line 2: path ''"),
        ("a.csv", "path,label\nx,cat\ny, cat\n", "line 3: label ' cat', .* as 'cat'"),
        ("a.csv", "path,labels\nx,cat|dog \n", "line 2: labels 'dog ', with a space"),
        ("a.csv", "path,split\nx,train \n", "line 2: split 'train ', with a space"),
        ("a.csv", "path,clip\nx,a\ny,a \n", "line 3: clip 'a ', with a space"),
        ("a.jsonl", '{"path": "x", "label": "3 "}\n', "line 1: label '3 ', with a"),
        ("a.jsonl", '{"path": "x", "labels": [" a"]}\n', "line 1: labels ' a', with"),
        ("a.csv", "", "lists no image"),
        ("a.csv", "path,label\n", "lists no image"),
        ("a.csv", b"path\nx.png\n\xe9t\xe9.png\n", "line 3: not UTF-8"),
        ("a.csv", "path\nx.png\n".encode("utf-16"), "line 1: not UTF-8"),
        ("a.jsonl", '{"path": "x.png"}\n{"path": \n', "line 2: not JSON"),
        ("a.jsonl", '{"path": "x.png"}\n\n["y.png"]\n', "line 3: no 'path'"),
        ("a.jsonl", '{"file": "x.png"}\n', "line 1: no 'path'"),
        ("a.jsonl", '{"path": 3}\n', "line 1: path 3"),
        ("a.jsonl", '{"path": "x", "label": 1.5}\n', "line 1: label 1.5, expected"),
        ("a.jsonl", '{"path": "x", "label": true}\n', "line 1: label True, expected"),
        ("a.jsonl", '{"path": "x", "split": 1}\n', "line 1: split 1"),
        ("a.jsonl", '{"path": ' + "[" * 100_000, "line 1: not JSON .nested too deeply"),
        ("a.jsonl", "\n\n", "lists no image"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_by_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        sources.open_source(path)
    assert str(path) in str(caught.value)


def test_manifests_and_splits_that_are_not_there(folder, tmp_path):
    root, _ = folder
    with pytest.raises(ValueError, match="There is no manifest at"):
        sources.open_source(root / "missing.csv")
    with pytest.raises(ValueError, match=r"ends in \.csv or \.jsonl"):
        sources.open_source(f"manifest:{_csv(root / 'a.txt', 'path')}")
    path = _csv(root / "a.csv", "path\nin/0.png\n")
    with pytest.raises(ValueError, match="no column 'split'"):
        sources.open_source(path, split="train")
    path = _csv(root / "b.csv", "path,split\nin/0.png,dev\nin/1.png,test\n")
    for split in ("val", None):
        with pytest.raises(ValueError, match="has dev, test; choose"):
            sources.open_source(path, split=split)


def test_what_a_read_could_wait_for_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path\na.png\n")
    with pytest.raises(ValueError, match=r"list\.csv, line 2: 'a\.png' is a pipe"):
        sources.open_source(str(tmp_path / "list.csv"))

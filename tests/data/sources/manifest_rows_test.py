import pytest

from tfssl.data.sources import manifest_rows

_COLUMNS = {"path": "a.png", "label": "1", "labels": None, "split": None}


def test_columns_that_count_and_those_that_are_asked_for(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,label,clip,note,channels:depth:gray\n\na.png,1,x,?,d.png\n")
    further = {"channels:depth:gray": "d.png"}
    assert manifest_rows.read(str(path)) == [(3, _COLUMNS | further)]
    ((_, row),) = manifest_rows.read(str(path), ("clip", "frame"))
    assert row == _COLUMNS | further | {"clip": "x", "frame": None}
    assert manifest_rows.further(row) == ["channels:depth:gray"]


@pytest.mark.parametrize("title", ["Clip", "clip ", "FRAME"])
def test_titles_that_are_asked_for_are_written_so(tmp_path, title):
    texts = {
        "list.csv": f"path,{title}\na.png,1",
        "list.jsonl": f'{{"path": "a.png", "{title}": "1"}}',
    }
    meant = title.strip().lower()
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        assert manifest_rows.read(str(path))  # Nobody asks for it.
        told = f"line 1: a column {title!r}, expected {meant!r}; write it so"
        with pytest.raises(ValueError, match=told):
            manifest_rows.read(str(path), ("clip", "frame"))
    path.write_text('{"path": "a.png", "clip": "1"}')
    assert manifest_rows.read(str(path), ("clip",))[0][1]["clip"] == "1"
    (tmp_path / "list.csv").write_text("path,clip,clip\na.png,1,2")
    with pytest.raises(ValueError, match="several columns 'clip'"):
        manifest_rows.read(str(tmp_path / "list.csv"), ("clip",))


def test_what_is_no_manifest(tmp_path):
    (tmp_path / "list.txt").write_text("path")
    for name, told in (("list.txt", r"ends in \.csv or \.jsonl"), ("x.csv", "is no")):
        with pytest.raises(ValueError, match=told):
            manifest_rows.read(str(tmp_path / name))

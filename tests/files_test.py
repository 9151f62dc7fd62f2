import pytest

from tfssl import files


def test_what_is_written_is_read(tmp_path):
    files.write_bytes(tmp_path / "new" / "a.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\x00\xff"
    files.write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\n"
    files.write_json(tmp_path / "a.json", {"b": [1, None]})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, None]}
    assert files.read_json(tmp_path / "missing.json") is None


@pytest.mark.parametrize("content", [b"", b'{"a": [1, 2', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path, caplog, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(files.DamagedFile, match=r"/a.json is damaged or empty \("):
        files.read_json(path)
    assert files.read_json_if_whole(path) is None
    assert "a.json is damaged or empty" in caplog.messages[-1]


@pytest.mark.parametrize("fails_in", ["write", "rename"])
def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch, fails_in):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    target = files.tf.io.gfile
    if fails_in == "write":
        monkeypatch.setattr(target.GFile, "write", fail)
    else:
        monkeypatch.setattr(target, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]

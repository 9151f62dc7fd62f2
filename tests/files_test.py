import os
import pathlib

import pytest
import tensorflow as tf

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


def test_the_home_folder_is_put_in_for_a_leading_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    for given, expected in (
        ("~/x", "/home/ada/x"),
        (pathlib.Path("~/x"), "/home/ada/x"),
        ("~", "/home/ada"),
        ("a~/~", "a~/~"),
        ("gs://~/x", "gs://~/x"),
        (None, None),
        (7, 7),
    ):
        assert files.expanded(given) == expected


def _failing(call):
    try:
        call()
    except Exception as error:
        return files.storage_failure(error)
    raise AssertionError("It did not fail.")


def test_what_storages_raise_becomes_a_sentence_with_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "x")
    open_gfile = lambda path: tf.io.gfile.GFile(path, "w").write("a")  # noqa: E731
    for call, path, reason in (
        (lambda: open(inside), inside, "Not a directory"),
        (lambda: open(tmp_path), str(tmp_path), "Is a directory"),
        (lambda: open_gfile(inside), f"{inside}", "Not a directory"),
        (lambda: open_gfile(f"/tmp/{300 * 'a'}"), None, "File name too long"),
        (lambda: open_gfile("/proc/x"), "/proc/x", "No such file"),
        (lambda: tf.io.read_file(str(tmp_path)), str(tmp_path), "Is a directory"),
        (lambda: tf.io.gfile.makedirs("no://x"), None, "scheme 'no' not implemented"),
    ):
        sentence, path_is_wrong = _failing(call)
        assert path_is_wrong and reason in sentence
        assert path is None or f"{path!r} cannot be read or written (" in sentence


def test_a_full_disk_is_no_wrong_path(tmp_path):
    full = OSError(28, os.strerror(28), str(tmp_path / "x"))
    said, path_is_wrong = files.storage_failure(full)
    assert not path_is_wrong and "x' cannot" in said and "No space left" in said
    full = tf.errors.ResourceExhaustedError(None, None, "/a/b; No space left on device")
    assert files.storage_failure(full) == (
        "'/a/b' cannot be read or written (No space left on device); mend that, and "
        "start the same again.",
        False,
    )


def test_other_errors_are_none_of_a_storage():
    for call in (
        lambda: tf.io.decode_image(b"no image"),
        lambda: tf.zeros([2, 3]) @ tf.zeros([2, 3]),
        lambda: 1 / 0,
    ):
        assert _failing(call) is None


def test_a_damaged_file_is_no_bug():
    text = "{{function_node x}} corrupted record at 12 [Op:IteratorGetNext] name: "
    sentence, path_is_wrong = files.storage_failure(
        tf.errors.DataLossError(None, None, text)
    )
    assert "(corrupted record at 12)" in sentence and not path_is_wrong


def test_a_place_is_tried_without_a_trace(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.check_writable(path)
    assert not list(path.parent.iterdir())
    path.write_text("old")
    files.check_writable(path)
    assert path.read_text() == "old" and len(list(path.parent.iterdir())) == 1
    for wrong in (tmp_path, path / "b.json"):
        with pytest.raises(files.STORAGE_ERRORS):
            files.check_writable(wrong)


def test_the_cpu_here_is_one_of_this_process():
    with tf.device(files.cpu_here()):
        assert "/job:localhost" in tf.random.uniform([2]).device


def test_paths_without_links_and_steps_back(tmp_path, monkeypatch):
    root = os.path.realpath(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    for path in ("a/x.png", "link/x.png", "a/../link/x.png", f"{root}/a/x.png"):
        assert files.real(path) == f"{root}/a/x.png"
    for path in ("a", "a/", "a/.", "link", "link/x/.."):
        assert files.real(path) == f"{root}/a"
    assert files.real("gs://b/a/../x.png") == "gs://b/x.png"
    assert files.inside("/a/b", "/a") and files.inside("/a", "/a")
    assert files.inside("/a", "/") and not files.inside("/ab", "/a")

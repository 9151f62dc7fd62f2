import csv
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import sources
from tfssl.tasks import pair_frames

_SIDE = 48


def _write(folder, clips, text="path,clip,frame,label,note\n"):
    """Clips of a texture that moves right by 2 pixels and down by 1 per frame."""
    rng = np.random.default_rng(0)
    for name, numbers in clips.items():
        noise = rng.uniform(0, 255, (20, 20, 1))
        scene = tf.image.resize(noise, (120, 120), "bicubic").numpy()
        scene = np.clip(scene, 0, 255).astype(np.uint8)
        (folder / name).mkdir()
        for t in numbers:
            top, left = 40 - t, 60 - 2 * t
            image = scene[top : top + _SIDE, left : left + _SIDE]
            image = np.concatenate([image, image // 2, image // 3], -1)
            path = folder / name / f"{t}.png"
            path.write_bytes(tf.io.encode_png(image).numpy())
            text += f"{name}/{t}.png,{name},{t},{len(name)},x\n"
    path = folder / "frames.csv"
    path.write_text(text)
    return path


def _pixels(source, index):
    return source.decode(source.read(tf.constant(index, tf.int64))).numpy()


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_frame_and_the_one_that_comes_later(tmp_path, capsys):
    frames = _write(tmp_path, {"a": range(5), "long": (7, 8, 9, 11), "b": (3,)})
    out = pair_frames.pair_frames(frames, tmp_path / "pairs.csv", ahead=2)
    assert "5 images of 10 frames in 3 clips; 5 have not" in capsys.readouterr().out
    pairs = [(row["path"], row["channels:later:rgb"]) for row in _rows(out)]
    assert pairs == [
        ("a/0.png", "a/2.png"),
        ("a/1.png", "a/3.png"),
        ("a/2.png", "a/4.png"),
        ("long/7.png", "long/9.png"),
        ("long/9.png", "long/11.png"),
    ]
    source = sources.open_source(out)
    assert source.channels == 6 and source.labels.tolist() == [1, 1, 1, 4, 4]
    plain = sources.open_source(frames)
    np.testing.assert_array_equal(
        _pixels(source, 1), np.concatenate([_pixels(plain, 1), _pixels(plain, 3)], -1)
    )


def test_frames_of_other_splits_are_not_taken(tmp_path, monkeypatch, capsys):
    frames = _write(tmp_path, {"a": range(6)})
    text = frames.read_text().replace("note", "split")
    lines = text.replace(",x", ",all").splitlines()
    for number in (4, 5):  # Frames 3 and 4.
        lines[number] = lines[number].replace(",all", ",test")
    frames.write_text("\n".join(lines))
    out = pair_frames.pair_frames(frames, tmp_path / "pairs.csv", ahead=1)
    assert "3 images of 6 frames in 1 clips; 3 have not" in capsys.readouterr().out
    assert [row["path"] for row in _rows(out)] == ["a/0.png", "a/1.png", "a/3.png"]
    monkeypatch.setattr(pair_frames, "_flow", lambda: _shifts)
    out = pair_frames.pair_frames(frames, tmp_path / "flow.csv", flow_fields=1)
    assert [row["path"] for row in _rows(out)] == ["a/0.png", "a/1.png", "a/3.png"]


def _shifts(first, second):
    """Stands in for OpenCV: a field that tells which frames it is of."""
    shift = [first.mean(), second.mean()]
    return np.broadcast_to(np.float32(shift) / 20, (*first.shape, 2))


def test_fields_around_a_frame(tmp_path, monkeypatch):
    asked = []

    def flow(first, second):
        asked.append((first, second))
        return _shifts(first, second)

    monkeypatch.setattr(pair_frames, "_flow", lambda: flow)
    frames = _write(tmp_path, {"a": range(6), "b": range(10, 14)})
    out = pair_frames.pair_frames(
        frames, tmp_path / "flow.csv", ahead=1, flow_fields=3, verbose=0
    )
    # Frame t takes t - 1 to t + 2.
    assert [row["path"] for row in _rows(out)] == [
        *(f"a/{t}.png" for t in (1, 2, 3)), "b/11.png",
    ]  # fmt: skip
    assert len(asked) == 5 + 3  # Each field once, though three frames have it.
    source = sources.open_source(out)
    assert source.channels == 3 + 3 + 2 * 3
    grey = sources.open_source(frames, channels=1)
    found = _pixels(source, 2)[0, 0, 6:]
    expected = []
    for j in (2, 3, 4):
        field = _shifts(_pixels(grey, j)[..., 0], _pixels(grey, j + 1)[..., 0])[0, 0]
        expected += [*np.clip(np.rint(128 + field * 127 / 20), 1, 255)]
    np.testing.assert_array_equal(found, expected)
    pair_frames.pair_frames(
        frames, tmp_path / "flow.csv", ahead=1, flow_fields=3, verbose=0
    )
    assert len(asked) == 8  # What is there is kept.


def test_a_clip_gets_no_flow_of_another(tmp_path, monkeypatch):
    asked = []

    def flow(first, second):
        asked.append(first)
        return _shifts(first, second)

    monkeypatch.setattr(pair_frames, "_flow", lambda: flow)

    def fields():
        out = pair_frames.pair_frames(
            frames, tmp_path / "flow.csv", flow_fields=1, verbose=0
        )
        return {row["path"]: row["channels:flow0x:gray"] for row in _rows(out)}

    frames = _write(tmp_path, {"b": range(2), "c": range(3)})
    before, text = fields(), frames.read_text()
    assert len(asked) == 3
    # A clip in front of the others, and a frame that has gone to another file.
    header, *lines = text.splitlines()
    added = _write(tmp_path, {"a": range(2)}).read_text().splitlines()[1:]
    lines[-1] = lines[-1].replace("c/2.png", "moved.png")
    (tmp_path / "moved.png").write_bytes((tmp_path / "b/0.png").read_bytes())
    frames.write_text("\n".join([header, *added, *lines, ""]))
    after = fields()
    assert len(asked) == 3 + 1 + 2
    assert after["b/0.png"] == before["b/0.png"]
    assert after["c/1.png"] != before["c/1.png"]
    assert len(set(after.values())) == len(after) == 4


def test_opencv_finds_the_motion(tmp_path):
    pytest.importorskip("cv2")
    frames = _write(tmp_path, {"a": range(3)})
    out = pair_frames.pair_frames(
        frames, tmp_path / "flow.csv", flow_fields=2, verbose=0
    )
    flow = _pixels(sources.open_source(out), 0)[8:-8, 8:-8, 3:].astype(np.float64)
    flow = (np.median(flow, (0, 1)) - 128) / 127 * 20
    np.testing.assert_allclose(flow, [2, 1, 2, 1], atol=0.3)


@pytest.mark.parametrize(
    "old, new, given, message",
    [
        ("", "", {}, "Neither ahead nor flow_fields"),
        ("", "", {"ahead": 3}, "No frame .* ahead=3 .*longest of 1 clips has 3 frames"),
        ("clip", "group", {"ahead": 1}, "line 2: clip None"),
        ("a,1,1", "a,x,1", {"ahead": 1}, "line 3: frame 'x', expected a whole number"),
        ("a,1,1", "a,2,1", {"ahead": 1}, "line 4: frame 2 of clip 'a' again, as in"),
        (
            "note",
            "channels:later:rgb",
            {"ahead": 1},
            "has the column channels:later:rgb",
        ),
        ("", "", {"ahead": 1, "out": "frames.csv"}, "name another"),
        ("", "", {"ahead": 1, "out": "pairs.jsonl"}, r"ends in \.csv in the folder"),
        ("", "", {"ahead": 1, "out": "in/pairs.csv"}, r"ends in \.csv in the folder"),
    ],
)
def test_what_is_refused(tmp_path, old, new, given, message):
    frames = _write(tmp_path, {"a": range(3)})
    if old:
        frames.write_text(frames.read_text().replace(old, new, 1))
    given = dict(given)
    out = tmp_path / given.pop("out", "pairs.csv")
    with pytest.raises(ValueError, match=message):
        pair_frames.pair_frames(frames, out, **given)
    assert not (tmp_path / "pairs.csv").exists()


def test_frames_that_flow_cannot_use(tmp_path, monkeypatch):
    frames = _write(tmp_path, {"a": range(3)})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cv2", None)
        with pytest.raises(ValueError, match=r"needs OpenCV: pip install 'tfssl\[flow"):
            pair_frames.pair_frames(frames, tmp_path / "f.csv", flow_fields=2)
    monkeypatch.setattr(pair_frames, "_flow", lambda: _shifts)
    (tmp_path / "a" / "1.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"a/1.png cannot be read; repair it"):
        pair_frames.pair_frames(frames, tmp_path / "f.csv", flow_fields=2)
    small = np.zeros((9, 9, 3), np.uint8)
    (tmp_path / "a" / "1.png").write_bytes(tf.io.encode_png(small).numpy())
    with pytest.raises(ValueError, match=r"of sizes \(48, 48\) and \(9, 9\)"):
        pair_frames.pair_frames(frames, tmp_path / "f.csv", flow_fields=2)
    assert not (tmp_path / "f.csv").exists()


def _encoded(kind, image, folder):
    path = folder / "other"
    Image.fromarray(image).convert(kind[0]).save(path, kind[1])
    return path.read_bytes()


@pytest.mark.parametrize(
    "kind",
    [
        ("L", "PNG"),
        pytest.param(("RGBA", "PNG"), marks=pytest.mark.slow),
        pytest.param(("RGB", "BMP"), marks=pytest.mark.slow),
        ("RGB", "WEBP"),
    ],
)
def test_later_frames_that_no_manifest_can_hold_are_refused(tmp_path, kind):
    """But as the frame itself they are read."""
    frames = _write(tmp_path, {"a": range(4)})
    image = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    other = _encoded(kind, image, tmp_path)
    (tmp_path / "a" / "0.png").write_bytes(other)
    out = tmp_path / "pairs.csv"
    pair_frames.pair_frames(frames, out, ahead=1, verbose=0)
    source = sources.open_source(out)
    assert [_pixels(source, i).shape[-1] for i in range(3)] == [6, 6, 6]
    out.unlink()
    (tmp_path / "a" / "2.png").write_bytes(other)
    with pytest.raises(
        ValueError,
        match=r"a/1.png cannot be read .*, 2.png .*.*JPEG or TIFF .*; save .* in RGB",
    ):
        pair_frames.pair_frames(frames, out, ahead=1, verbose=0)
    assert not out.exists()


def test_frames_of_other_sizes_and_cut_off_make_no_pairs(tmp_path):
    frames, out = _write(tmp_path, {"a": range(3)}), tmp_path / "pairs.csv"
    last = tmp_path / "a" / "2.png"
    whole = last.read_bytes()
    last.write_bytes(_encoded(("RGB", "PNG"), np.zeros((9, 9, 3), np.uint8), tmp_path))
    with pytest.raises(ValueError, match=r"a/1.png .*2.png \(files of different sizes"):
        pair_frames.pair_frames(frames, out, ahead=1)
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a/1.png cannot be read together .*2.png"):
        pair_frames.pair_frames(frames, out, ahead=1)
    last.unlink()
    with pytest.raises(ValueError, match=r"2.png .*missing"):
        pair_frames.pair_frames(frames, out, ahead=1)
    assert not out.exists()


@pytest.mark.parametrize("given", [{"ahead": 1}, {"flow_fields": 1}])
def test_frames_that_lie_elsewhere_need_a_root(tmp_path, monkeypatch, given):
    monkeypatch.setattr(pair_frames, "_flow", lambda: _shifts)
    (tmp_path / "lists").mkdir()
    frames = _write(tmp_path, {"a": range(3)})
    text = frames.read_text().replace("a/", "../a/")
    frames = tmp_path / "lists" / "frames.csv"
    frames.write_text(text)
    out = frames.with_name("pairs.csv")
    with pytest.raises(ValueError, match=r"line 2: '../a/0.png' lies outside .*root="):
        pair_frames.pair_frames(frames, out, **given)
    pair_frames.pair_frames(frames, out, root=tmp_path, verbose=0, **given)
    assert sources.open_source(out, root=tmp_path).num_images == 2


def test_clips_have_names_and_numbers_are_names(tmp_path):
    _write(tmp_path, {"0": range(3)})
    frames, out = tmp_path / "frames.jsonl", tmp_path / "pairs.jsonl"

    def write(*clips):
        rows = [
            {"path": f"0/{t}.png", "clip": clip, "frame": t}
            for t, clip in enumerate(clips)
        ]
        frames.write_text("\n".join(map(json.dumps, rows)))

    write(0, "0", 0)
    pair_frames.pair_frames(frames, out, ahead=1, verbose=0)
    assert sources.open_source(out).num_images == 2
    for odd in (["0"], {}, True, 0.0, None, ""):
        write("0", odd)
        with pytest.raises(ValueError, match=r"line 2: clip .*, expected a name, or"):
            pair_frames.pair_frames(frames, out, ahead=1)

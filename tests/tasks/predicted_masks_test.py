import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.fixtures import staged
from tfssl import data, formats, locks, models
from tfssl.evaluation import segmentation
from tfssl.tasks import predict, predicted_masks

NAMES = ("sky", "road", "tree")


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(1)
    made = models.Segmenter(staged.Staged(), NAMES, image_size=8, width=16)
    made.head.get_layer("outputs").bias.assign([0.1, 0.2, 0.0])
    return formats.Encoder(made, data.Preprocessing(size=8, crop=0.875))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images of several sizes, two of one name in two folders, and no image."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, shape in (("a/x", (12, 20)), ("b/x", (9, 7)), ("b/y", (16, 16))):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(256, size=(*shape, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "b" / "z.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def in_memory(segmenter, folder):
    """What is said of the images of the folder, without one for the masks."""
    return predict.predict(segmenter, str(folder), max_bad_fraction=0.5, verbose=0)


def test_a_mask_has_the_size_of_its_image(segmenter, folder, in_memory, tmp_path):
    path = str(tmp_path / "segmenter.keras")
    formats.keras_file.save(segmenter.network, path, segmenter.preprocessing)
    out = str(tmp_path / "masks")
    given = dict(batch_size=2, max_bad_fraction=0.5, verbose=0)
    found = predict.predict(path, str(folder), out, **given)
    assert len(found) == len(in_memory) == 3 and found.class_names == NAMES
    assert len(found.unreadable) == 1 and "z.png" in found.unreadable[0]
    names = []
    for row, other in zip(found, in_memory):
        pixels = np.array(Image.open(os.path.join(folder, row.image)))
        assert row.mask.shape == pixels.shape[:2] and row.mask.dtype == np.uint8
        np.testing.assert_array_equal(row.mask, other.mask)
        # By hand: all of the image in the size of the network, and back.
        whole = data.Preprocessing(size=8).apply(tf.constant(pixels))[tf.newaxis]
        chances = np.array(segmenter.network.probabilities(whole))[0]
        back = tf.image.resize(chances, pixels.shape[:2], antialias=True)
        np.testing.assert_array_equal(row.mask, np.argmax(back, axis=-1))
        names.append(os.path.basename(row.image))
    assert names == ["x.png", "x.png", "y.png"]
    files = sorted(os.listdir(out))
    assert files == ["masks.csv", "x_000000.png", "x_000001.png", "y_000002.png"]
    written = np.array(Image.open(os.path.join(out, "x_000001.png")))
    np.testing.assert_array_equal(written, found[1].mask)
    with open(os.path.join(out, "masks.csv")) as lines:
        assert lines.read().splitlines()[1].endswith("x.png,x_000000.png")


def test_a_row_says_what_its_pixels_are():
    mask = predicted_masks.Mask("a.png", np.uint8([[1, 1], [1, 0]]), NAMES)
    assert str(mask) == "a.png: road 75 %, sky 25 %"


def test_arrays_have_numbers_for_names(segmenter, tmp_path):
    pixels = np.zeros((2, 10, 12, 3), np.uint8)
    out = str(tmp_path / "masks")
    found = predict.predict(segmenter, pixels, out, verbose=0)
    assert found[0].mask.shape == (10, 12)
    assert sorted(os.listdir(out)) == ["000000.png", "000001.png", "masks.csv"]


def test_masks_in_memory_are_small(segmenter):
    found = predict.predict(segmenter, np.zeros((2, 400, 500, 3), np.uint8), verbose=0)
    assert found[1].mask.shape == (400, 500)
    assert all(memoryview(mask).nbytes < 400 * 500 / 50 for mask in found.masks)


def test_what_cannot_work_is_refused_at_the_start(segmenter, tmp_path):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    for given, message in (
        (dict(out=str(tmp_path / "a.csv")), "a.csv' received, expected a folder"),
        (dict(out=str(tmp_path / "a.NPZ")), "leave the ending of a file away"),
        (dict(top=2), "top=2 received for a segmenter"),
        (dict(threshold=0.5), "threshold=0.5 received for a segmenter"),
    ):
        with pytest.raises(ValueError, match=message):
            predict.predict(segmenter, pixels, verbose=0, **given)
    assert not os.listdir(tmp_path)


def test_a_segmenter_that_diverged_says_so(segmenter):
    config = keras.saving.serialize_keras_object(segmenter.network)
    network = keras.saving.deserialize_keras_object(config)
    network.head.get_layer("outputs").bias.assign([np.nan] * 3)
    other = formats.Encoder(network, data.Preprocessing(size=8))
    with pytest.raises(ValueError, match="NaN or infinity for 2 of 2 images"):
        predict.predict(other, np.zeros((2, 8, 8, 3), np.uint8), verbose=0)


def _content(folder):
    """Dict of the files below a folder to their bytes, with its folders as None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _photos(folder, count=3, side=8):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((side, side, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def _arrays(count=3, side=8):
    """As `_photos`, but in memory: whose masks are `000000.png`, …"""
    return np.zeros((count, side, side, 3), np.uint8)


def _named(out, given, segmenter, **others):
    """Checks that the folder holds what its list names, and gives the names."""
    predict.predict(segmenter, given, str(out), verbose=0, **others)
    lines = (out / "masks.csv").read_text().splitlines()
    names = [line.split(",")[1] for line in lines[1:]]
    assert sorted(os.listdir(out)) == sorted([*names, "masks.csv"])
    return names


def test_no_mask_lies_among_the_images(segmenter, tmp_path, monkeypatch):
    photos = _photos(tmp_path / "all" / "photos")
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "all" / "list.csv").write_text("path\nphotos/1.png\n")
    monkeypatch.chdir(photos)
    before = _content(tmp_path)
    inside = os.path.join(photos, "masks")
    for given, out, how in (
        (photos, photos, "which it is"),
        (photos, f"{photos}/", "which it is"),
        (photos, str(tmp_path / "link"), "which it is"),
        (f"folder:{photos}", photos, "which it is"),
        (photos, str(tmp_path / "all"), "which it contains"),
        (photos, inside, "in which it lies"),
        (f"folder:{photos}/../photos", inside, "in which it lies"),
        (".", "masks", "in which it lies"),
        (f"{photos}/1.png", photos, "which it is"),
        ("1.png", ".", "which it is"),
        ([f"{photos}/1.png"], str(tmp_path / "all"), "which it contains"),
        (str(tmp_path / "all" / "list.csv"), photos, "which it is"),
    ):
        message = rf"^out='.*' received, expected a folder .* {how}; name another"
        with pytest.raises(ValueError, match=message) as found:
            predict.predict(segmenter, given, out, verbose=0)
        assert repr(out) in str(found.value) and "\n" not in str(found.value)
        assert _content(tmp_path) == before
    # Of a list no others are read, so a folder beside its images will do.
    _named(tmp_path / "all" / "masks", str(tmp_path / "all" / "list.csv"), segmenter)
    _named(tmp_path / "all" / "photos" / "masks", f"{photos}/1.png", segmenter)


@pytest.mark.parametrize(
    "held",
    [
        {"1.png": b"a map"},
        {"1.png": b"a map", "masks.csv": b""},
        {"masks.csv": b"image,label\na,1.png\n"},
        {"masks.csv": b"\xff\xfe"},
        {"1.png": b"a map", "masks.csv": b"image,mask\nphotos/0.png,0.png\n"},
        {"notes.txt": b"", "masks.csv": b"image,mask\nphotos/0.png,notes.txt\n"},
        {".hidden": b""},
        {"more/1.png": b"a map"},
    ],
)
def test_what_no_prediction_wrote_is_not_written_over(segmenter, tmp_path, held):
    photos, out = _photos(tmp_path / "voc" / "images"), tmp_path / "voc" / "masks"
    for name, content in held.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    before = _content(tmp_path)
    message = (
        r"^out='.*voc/masks' received, expected a new or empty folder .* holds "
        r"[12] file\(s\) .* such as '[^']+'; name another folder\.$"
    )
    with pytest.raises(ValueError, match=message):
        predict.predict(segmenter, photos, str(out), verbose=0)
    assert _content(tmp_path) == before


def test_earlier_masks_are_replaced(segmenter, tmp_path):
    out = tmp_path / "masks"
    out.mkdir()  # An empty folder will do.
    photos = _photos(tmp_path / "photos")
    assert _named(out, photos, segmenter) == ["0.png", "1.png", "2.png"]
    before = _content(tmp_path)  # They are no images to write over.
    with pytest.raises(ValueError, match="which it is"):
        predict.predict(segmenter, [str(out / "1.png")], str(out), verbose=0)
    assert _content(tmp_path) == before
    others = _photos(tmp_path / "others", count=2, side=12)
    os.rename(os.path.join(others, "0.png"), os.path.join(others, "a.png"))
    assert _named(out, others, segmenter) == ["1.png", "a.png"]
    assert Image.open(out / "1.png").size == (12, 12)


def test_a_failure_leaves_what_was_there(segmenter, tmp_path, monkeypatch):
    photos, out = _arrays(), tmp_path / "masks"
    given = dict(batch_size=1, verbose=0)
    check, calls = predicted_masks.predictions.check_finite, []

    def fails_late(*args):
        calls.append(args)
        if len(calls) % 3 == 0:
            raise RuntimeError("late")
        check(*args)

    def fail(photos):
        before = _content(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(predicted_masks.predictions, "check_finite", fails_late)
            with pytest.raises(RuntimeError, match="late"):
                predict.predict(segmenter, photos, str(out), **given)
        assert _content(tmp_path) == before

    fail(photos)
    assert not out.exists()
    out.mkdir()
    fail(photos)
    _named(out, photos, segmenter)
    fail(_arrays(side=12))
    assert len(calls) == 9


def test_a_move_that_was_cut_off_is_made_good(segmenter, tmp_path, monkeypatch):
    out = tmp_path / "masks"
    _named(out, _arrays(2), segmenter)
    rename = tf.io.gfile.rename

    def stops(old, new, overwrite=False):
        if new == str(out / "000002.png"):
            rename(old, new, overwrite)
            raise KeyboardInterrupt
        rename(old, new, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", stops)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(segmenter, _arrays(4), str(out), verbose=0)
    assert (out / "000002.png").exists()
    assert _named(out, _arrays(2), segmenter) == ["000000.png", "000001.png"]


def test_one_process_at_a_time_writes_to_a_folder(segmenter, tmp_path):
    out = tmp_path / "masks"
    with locks.hold(out):
        unfinished = out / ".masks.part" / "000000.png"
        unfinished.parent.mkdir()
        unfinished.write_bytes(b"of the first")
        with pytest.raises(locks.InUse, match="masks is in use by process"):
            predict.predict(segmenter, _arrays(), str(out), verbose=0)
        assert unfinished.read_bytes() == b"of the first"
    (out / ".lock").write_text("of a process that was killed")
    _named(out, _arrays(), segmenter)


def test_a_folder_may_have_a_dot_in_its_name(segmenter, tmp_path):
    photo = _arrays(1)
    (tmp_path / "old.csv").mkdir()
    (tmp_path / "exist.d").mkdir()
    for name in ("v1.0", "exist.d", "old.csv"):
        assert _named(tmp_path / name, photo, segmenter) == ["000000.png"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a folder .* but it is a file"):
        predict.predict(segmenter, photo, str(tmp_path / "file"), verbose=0)


def test_images_of_other_channels_are_told_of_a_segmenter(segmenter):
    with pytest.raises(ValueError, match="but the segmenter takes 3; give images of 3"):
        predict.predict(segmenter, np.zeros((2, 8, 8, 1), np.uint8), verbose=0)


def test_probabilities_of_few_images_are_held_at_once(
    segmenter, folder, in_memory, monkeypatch
):
    seen = []

    def probabilities(self, images):
        seen.append(images.shape[0])
        return keras.ops.softmax(self.logits(images), axis=-1)

    monkeypatch.setattr(models.Segmenter, "probabilities", probabilities)
    # Two images of the network's size; of the largest image one class of three.
    monkeypatch.setattr(segmentation, "NUMBERS", 2 * 8 * 8 * 3)
    found = predict.predict(segmenter, str(folder), max_bad_fraction=0.5, verbose=0)
    assert set(seen) == {2}
    assert [row.image for row in found] == [row.image for row in in_memory]
    for row, other in zip(found, in_memory):
        np.testing.assert_array_equal(row.mask, other.mask)


def test_of_equal_probabilities_the_first_class_is_said(monkeypatch):
    chances = np.full((2, 2, 4), 0.25, np.float32)
    chances[0, 0] = 0.2, 0.3, 0.3, 0.2
    for numbers in (1000, 4):
        monkeypatch.setattr(segmentation, "NUMBERS", numbers)
        mask = predicted_masks._mask(chances, (2, 2))
        assert mask.tolist() == [[1, 0], [0, 0]] and mask.dtype == np.uint8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"])
def test_the_size_of_a_file_is_that_of_its_pixels(kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    Image.effect_noise((70, 90), 99).convert("RGB").save(path, kind)
    size_of = predicted_masks._size_of(data.open_source(str(tmp_path)))
    assert size_of(0).numpy().tolist() == [90, 70]
    if kind in ("JPEG", "PNG"):  # By the header: the pixels are not there.
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert size_of(0).numpy().tolist() == [90, 70]

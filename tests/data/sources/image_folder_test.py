import os

import numpy as np
import pytest
from PIL import Image

from tfssl.data import sources


@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_folders_are_read_in_the_order_of_their_paths(
    tmp_path, prefix, pixels, write_tree
):
    files = write_tree(tmp_path / "data")
    source = sources.open_source(f"{prefix}{tmp_path / 'data'}")
    assert [source.describe(i) for i in range(4)] == list(files)
    for i, image in enumerate(files.values()):
        np.testing.assert_array_equal(pixels(source, i), image)
    assert source.channels == 3 and source.dtype == "uint8" and source.encoded
    assert source.labels is None and source.class_names is None
    assert source.image_size is None


def test_folder_names_are_labels_when_asked(
    tmp_path, make_images, write_image, write_tree
):
    write_tree(tmp_path)
    source = sources.open_source(tmp_path, labels="folders")
    assert source.class_names == ("a_dog", "b_cat")
    assert source.labels.tolist() == [0, 1, 1, 1]
    assert sources.open_source(tmp_path, labels="none").labels is None
    write_image(tmp_path / "lost.png", make_images()[0])
    with pytest.raises(ValueError, match="outside of class folders"):
        sources.open_source(tmp_path, labels="folders")


def test_a_flat_folder_of_several_types(tmp_path, pixels, make_images, write_image):
    image = make_images(1)[0]
    for i, kind in enumerate(["PNG", "BMP", "GIF", "JPEG"]):
        write_image(tmp_path / f"{i}.{kind.lower()}", image, kind)
    (tmp_path / "notes.txt").write_text("no image")
    source = sources.open_source(tmp_path)
    assert source.num_images == 4
    np.testing.assert_array_equal(pixels(source, 0), image)
    np.testing.assert_array_equal(pixels(source, 1), image)
    for i in range(2, 4):
        with Image.open(source.describe(i)) as file:
            expected = np.asarray(file.convert("RGB")).astype(int)
        assert np.abs(pixels(source, i).astype(int) - expected).max() <= 4


def test_hidden_files_and_links_out_of_the_folder_are_left_out(
    tmp_path, make_images, write_image, write_tree, caplog
):
    root, outside = tmp_path / "data", tmp_path / "private"
    files = write_tree(root)
    image = make_images()[0]
    write_image(root / ".hidden.png", image)
    write_image(root / ".thumbnails" / "small.png", image)
    write_image(outside / "secret.png", image)
    os.symlink(root / "a_dog" / "1.png", root / "b_cat" / "inside.png")
    write_image(root / "flat.png", image)
    files = [*files, str(root / "b_cat" / "inside.png"), str(root / "flat.png")]
    files = sorted(files)
    os.symlink(outside / "secret.png", root / "link.png")
    os.symlink(outside, root / "linked_folder")
    with caplog.at_level("WARNING", "absl"):
        source = sources.open_source(root)
    assert [source.describe(i) for i in range(source.num_images)] == files
    line, repeated = [r.getMessage() for r in caplog.records]
    assert "1 images are there more than once" in repeated and "inside.png" in repeated
    assert "2 links that lead out of the folder were left out" in line
    assert "follow_links=True" in line
    assert sources.open_source(f"{root}/").num_images == len(files)
    source = sources.open_source(root, follow_links=True)
    found = [source.describe(i) for i in range(source.num_images)]
    behind = [root / "link.png", root / "linked_folder" / "secret.png"]
    assert found == sorted([*files, *map(str, behind)])


def test_a_folder_of_nothing_but_links_says_so(tmp_path, make_images, write_image):
    write_image(tmp_path / "store" / "a.png", make_images()[0])
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "store" / "a.png", tmp_path / "data" / "a.png")
    with pytest.raises(ValueError, match="only 1 links.*or pass follow_links=True"):
        sources.open_source(tmp_path / "data")


def test_folders_linked_to_each_other_are_walked_once_each(tmp_path, write_tree):
    files = write_tree(tmp_path)
    os.symlink(tmp_path / "b_cat", tmp_path / "a_dog" / "to_b")
    os.symlink(tmp_path / "a_dog", tmp_path / "b_cat" / "to_a")
    source = sources.open_source(tmp_path)
    # a_dog/to_b holds the three images of b_cat again, b_cat/to_a the one of a_dog.
    assert source.num_images == len(files) + 3 + 1


def test_a_link_to_a_parent_folder_does_not_repeat_images(tmp_path, write_tree):
    files = write_tree(tmp_path)
    os.symlink(tmp_path, tmp_path / "b_cat" / "up")
    source = sources.open_source(tmp_path)
    assert [source.describe(i) for i in range(source.num_images)] == list(files)


def test_grey_and_sixteen_bit_files(tmp_path, pixels, write_image):
    deep = (np.arange(64, dtype=np.uint16) * 900).reshape(8, 8)
    write_image(tmp_path / "deep.png", deep)
    source = sources.open_source(tmp_path, channels=1, bit_depth=16)
    assert source.dtype == "uint16" and source.max_value == 65535
    np.testing.assert_array_equal(pixels(source, 0)[..., 0], deep)
    source = sources.open_source(tmp_path, channels=1)
    assert source.dtype == "uint8"
    assert np.abs(pixels(source, 0)[..., 0] - deep / 257.0).max() <= 1


def test_folders_that_give_nothing(tmp_path, write_tree):
    with pytest.raises(ValueError, match="is no folder and none of digits"):
        sources.open_source(tmp_path / "missing")
    with pytest.raises(ValueError, match="is no folder"):
        sources.open_source("digitz")
    with pytest.raises(ValueError, match="holds no image file"):
        sources.open_source(tmp_path)
    write_tree(tmp_path)
    with pytest.raises(ValueError, match="which has no splits"):
        sources.open_source(tmp_path, split="train")


def test_endings_of_known_kinds_are_read_and_the_others_counted(
    tmp_path, pixels, make_images, write_image, caplog
):
    image = make_images(1)[0]
    for name, kind in (
        ("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.JPEG", "JPEG"), ("d.dib", "BMP"),
        ("e.tga", "TGA"), ("deep/f.TGA", "TGA"), ("noext", "PNG"), (".g.tga", "TGA"),
    ):  # fmt: skip
        write_image(tmp_path / name, image, kind)
    with caplog.at_level("WARNING", "absl"):
        source = sources.open_source(tmp_path)
    names = [os.path.basename(source.describe(i)) for i in range(source.num_images)]
    assert names == ["a.jfif", "b.jpe", "c.JPEG", "d.dib"]
    assert all(pixels(source, i).shape == (8, 8, 3) for i in range(4))
    (line,) = caplog.messages
    assert (
        "3 files of other endings were left out (.tga 2, without an ending 1)" in line
    )


def test_a_class_folder_without_an_image_is_said(
    tmp_path, make_images, write_image, write_tree, caplog
):
    write_tree(tmp_path)
    write_image(tmp_path / "bee" / "1.tga", make_images()[0], "TGA")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    with caplog.at_level("WARNING", "absl"):
        source = sources.open_source(tmp_path, labels="folders")
    assert source.class_names == ("a_dog", "b_cat")
    assert "2 class folder(s) hold no image file and make no class: bee, empty" in (
        caplog.text
    )


def test_names_that_are_not_utf_8(tmp_path, pixels, make_images, write_tree):
    files = write_tree(tmp_path)
    image = next(iter(files.values()))
    odd = os.fsencode(tmp_path / "c") + b"l\xe9"
    os.mkdir(odd)
    with open(next(iter(files)), "rb") as file, open(odd + b"/\xff.png", "wb") as copy:
        copy.write(file.read())
    source = sources.open_source(tmp_path, labels="folders")
    assert source.num_images == 5
    assert source.class_names == ("a_dog", "b_cat", "cl\\xe9")
    assert source.describe(4) == f"{tmp_path}/cl\\xe9/\\xff.png"
    np.testing.assert_array_equal(pixels(source, 4), image)
    assert len(source.fingerprint()) == 64
    assert sources.open_source(os.fsdecode(odd)).num_images == 1


def test_a_folder_that_cannot_be_listed_is_not_left_out(
    tmp_path, write_tree, monkeypatch
):
    write_tree(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if path.endswith("b_cat"):  # A test that runs as root may read everything.
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="b_cat"):
        sources.open_source(tmp_path)


def test_what_a_read_could_wait_for_is_left_out_and_named(
    tmp_path, make_images, write_image, caplog
):
    write_image(tmp_path / "a.png", make_images()[0])
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "pipe.png", tmp_path / "link.png")
    source = sources.open_source(tmp_path)
    assert source.num_images == 1 and source.describe(0) == str(tmp_path / "a.png")
    assert "2 pipes, sockets or devices were left out" in caplog.text
    assert "link.png" in caplog.text

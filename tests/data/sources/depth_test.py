import numpy as np
import pytest

from tfssl.data import sources
from tfssl.data.sources import depth, opening
from tfssl.tasks import make_tfrecords


@pytest.fixture
def scans(tmp_path, write_image):
    """A folder of 30 images of 8 bits, the last third of 16."""
    for i in range(30):
        values = np.full((4, 4), 3000 + i, np.uint16)
        image = values if i >= 20 else (values // 16).astype(np.uint8)
        write_image(tmp_path / "scans" / f"{i:02d}.png", image)
    return tmp_path / "scans"


def _told(caplog, data, **options):
    opening._KNOWN.clear()
    caplog.clear()
    caplog.set_level("WARNING", "absl")
    source = sources.open_source(data, **options)
    return source, [line for line in caplog.messages if "16 bits" in line]


def test_files_that_lose_half_of_their_bits_are_said_once(scans, caplog, tmp_path):
    _, (line,) = _told(caplog, str(scans))
    assert line.startswith(
        f"{scans}: files of 16 bits ({scans}/20.png) are read with 8"
    )
    assert "--bit_depth=16" in line
    assert _told(caplog, str(scans), bit_depth=16)[1] == []
    for file in list(scans.iterdir())[:3]:
        file.write_bytes(b"\x89PNG")  # Found by others.
    (scans / "20.png").unlink()
    rows = "\n".join(f"{i}.png,00.png" for i in range(21, 30))
    for title in ("label", "channels:later:gray"):
        (scans / "list.csv").write_text(f"path,{title}\n{rows}")
        assert len(_told(caplog, str(scans / "list.csv"))[1]) == 1
    rows = "\n".join(f"{i:02d}.png" for i in range(20))
    (scans / "list.csv").write_text(f"path\n{rows}")
    assert _told(caplog, str(scans / "list.csv"))[1] == []


def test_what_is_opened_again_is_not_looked_at_again(scans, caplog, monkeypatch):
    looked_at = []
    is_deep = depth._is_deep

    def noted(file_of, index):
        looked_at.append(index)
        return is_deep(file_of, index)

    monkeypatch.setattr(depth, "_is_deep", noted)
    monkeypatch.chdir(scans.parent)
    for data in ("scans", "folder:scans", str(scans)):
        for depth_of_files in (16, 8, 8):
            sources.open_source(data, bit_depth=depth_of_files)
    assert len([line for line in caplog.messages if "16 bits" in line]) == 1
    assert len(looked_at) == len(set(looked_at)) > 4
    rows = "".join(f"{i:02d}.png,{'b' if i >= 20 else 'a'}\n" for i in range(30))
    (scans / "list.csv").write_text(f"path,split\n{rows}")
    for split in "aabb":  # Other files.
        sources.open_source(str(scans / "list.csv"), split=split)
    assert len([line for line in caplog.messages if "16 bits" in line]) == 2
    # The folder `scans` of another working directory is another one.
    (scans / "scans").mkdir()
    (scans / "20.png").rename(scans / "scans" / "20.png")
    monkeypatch.chdir(scans)
    sources.open_source("folder:scans")
    assert len([line for line in caplog.messages if "16 bits" in line]) == 3


def test_a_folder_of_the_name_of_made_data_is_told_of_once(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "scenes").mkdir()
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test", "train"):
        sources.open_source("scenes", split=split)
    (line,) = [line for line in caplog.messages if "folder:scenes" in line]
    assert line.startswith("data='scenes' is the data of that name")


def test_records_and_tiff_files_too(tmp_path, write_image, caplog):
    folder = tmp_path / "scans"
    for i in range(3):
        write_image(folder / f"{i}.tif", np.full((4, 4), 3000 + i, np.uint16), "TIFF")
    source, told = _told(caplog, str(folder))
    assert len(told) == 1
    index = make_tfrecords.make_tfrecords(
        source, str(tmp_path / "out"), num_shards=2, verbose=0
    )
    assert len(_told(caplog, f"tfrecord:{index}")[1]) == 1
    assert _told(caplog, f"tfrecord:{index}", bit_depth=16)[1] == []

"""Served models as folders: versions, names, what is stored beside the graph."""

import json
import os
import platform
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from tests.fixtures import plain_exports
from tfssl.data import preprocessing as preprocessing_lib
from tfssl.formats import model_card, serving


def tiny():
    """Fast to export: for what is about folders, not about features."""
    return keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D()]
    )


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    plain_exports.only_floats(monkeypatch)


_TINY = preprocessing_lib.Preprocessing(size=4)


def test_versions_count_up_and_are_never_overwritten(tmp_path):
    base = tmp_path / "models" / "digits"
    numbers = []
    for version in (None, None, 7, None):
        path = serving.saved_model(tiny(), base, preprocessing=_TINY, version=version)
        numbers.append(os.path.basename(path))
    assert numbers == ["1", "2", "7", "8"]
    assert sorted(os.listdir(base)) == ["1", "2", "7", "8", "README.md"]
    assert serving.versions(base) == [1, 2, 7, 8]
    before = os.stat(base / "2" / "saved_model.pb").st_mtime_ns
    with pytest.raises(ValueError, match="Version 2 exists in .* never overwritten"):
        serving.saved_model(tiny(), base, preprocessing=_TINY, version=2)
    assert os.stat(base / "2" / "saved_model.pb").st_mtime_ns == before


@pytest.mark.parametrize("version", ["v0.1", "3", 0, -1, 1.0, True, 10**20])
def test_names_that_serving_would_ignore(tmp_path, version):
    with pytest.raises(ValueError, match="version=.* received, expected a whole"):
        serving.saved_model(tiny(), tmp_path, preprocessing=_TINY, version=version)
    assert not os.listdir(tmp_path)


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("disk full")

    monkeypatch.setattr(serving.files, "write_json", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        serving.saved_model(tiny(), tmp_path / "m", preprocessing=_TINY)
    assert os.listdir(tmp_path / "m") == []


def test_what_killed_exports_of_this_host_left_is_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    host = platform.node()
    left = [f".writing-{host}-{dead}", f".writing-{host}-{os.getpid()}"]
    alive = [f".writing-{host}-{os.getppid()}", f".writing-another-{dead}"]
    for name in left + alive:
        (tmp_path / name / "assets").mkdir(parents=True)
    serving.saved_model(tiny(), tmp_path, preprocessing=_TINY)
    assert sorted(os.listdir(tmp_path)) == sorted([*alive, "1", "README.md"])


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write to .*file/m"):
        serving.saved_model(tiny(), tmp_path / "file" / "m", preprocessing=_TINY)


def test_stored_preprocessing_and_card(tmp_path):
    preprocessing = preprocessing_lib.Preprocessing(
        size=4, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0)
    )
    path = serving.saved_model(
        tiny(),
        tmp_path / "digits",
        preprocessing=preprocessing,
        model_card={
            "results": [{"probe": "kNN", "accuracy": 0.97612345}, {"probe": "a|b"}],
            "settings": {"method": "simclr", "dims": [128, 64]},
            "evaluation": None,
            "notes": "Free text.",
        },
    )
    with open(os.path.join(path, "assets.extra", "preprocessing.json")) as file:
        stored = preprocessing_lib.Preprocessing.from_config(json.load(file))
    assert stored == preprocessing
    card = (tmp_path / "digits" / "README.md").read_text()
    for expected in (
        "# digits\n", "Version 1.", "| kNN | 0.976123 |", "a\\|b",
        "| dims | [128, 64] |", "## Notes\n\nFree text.", "| mean | [0.1, 0.2, 0.3] |",
        "(batch, 4, 4, 3)", "`serving_default`", "localhost:8501/v1/models/digits",
    ):  # fmt: skip
        assert expected in card
    assert "Evaluation" not in card


def test_warm_up_file_only_on_request(tmp_path):
    image = tf.io.encode_png(tf.zeros((6, 6, 3), tf.uint8)).numpy()
    path = serving.saved_model(
        tiny(), tmp_path / "m", preprocessing=_TINY, warmup_images=[image, image]
    )
    file = os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
    assert len(list(tf.data.TFRecordDataset([file]))) == 5
    path = serving.saved_model(tiny(), tmp_path / "m", preprocessing=_TINY)
    assert sorted(os.listdir(os.path.join(path, "assets.extra"))) == [
        "README.md",
        "encoder.keras",
        "preprocessing.json",
    ]


def test_the_card_that_is_shown_is_of_the_highest_version(tmp_path):
    for version in (3, 2):
        path = serving.saved_model(
            tiny(), tmp_path, preprocessing=_TINY, version=version
        )
        card = open(os.path.join(path, serving.CARD)).read()
        assert f"Version {version}." in card and f'load("{version}")' in card
    assert "Version 3." in (tmp_path / "README.md").read_text()
    serving.saved_model(tiny(), tmp_path, preprocessing=_TINY)
    assert "Version 4." in (tmp_path / "README.md").read_text()


def test_a_readme_of_somebody_else_stays(tmp_path, caplog):
    mine = tmp_path / "README.md"
    mine.write_bytes(b"# About \xff\n")
    path = serving.saved_model(tiny(), tmp_path, preprocessing=_TINY)
    assert mine.read_bytes() == b"# About \xff\n"
    assert os.path.join(path, "assets.extra", "README.md") in caplog.text
    assert "Version 1." in serving.card_of(path)


def test_a_card_goes_along(tmp_path):
    """Also that of an older tfssl, which had one for all versions and no marker."""
    sections = {"settings": {"a|b": "## c"}, "tokenizer": [{"kNN": 0.5}, {"x": None}]}
    first = serving.saved_model(
        tiny(), tmp_path / "a", preprocessing=_TINY, model_card=sections
    )
    card = serving.card_of(first)
    end = card[card.index("## Settings") :]
    assert "## Tokenizer" in end and end.endswith(f"{model_card.MARKER}\n")
    assert serving.card_of(tmp_path / "a") == card
    assert serving.card_of(os.path.join(first, serving.ENCODER)) == card
    shown = tmp_path / "a" / "README.md"
    shown.write_text(card.replace(model_card.MARKER, ""))
    os.remove(os.path.join(first, serving.CARD))
    again = card
    for name in ("b", "c"):
        again = serving.card_of(first)
        first = serving.saved_model(
            tiny(), tmp_path / name, preprocessing=_TINY, model_card=again
        )
        again = serving.card_of(first)
        assert again[again.index("## Settings") :] == end
        assert again.count("## Encoder") == again.count(model_card.MARKER) == 1
    assert serving.card_of(tmp_path) is None

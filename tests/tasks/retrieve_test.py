import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import staged
from tfssl import data as data_lib
from tfssl.evaluation import rmac
from tfssl.formats import Encoder, keras_file, saved_model
from tfssl.tasks import retrieve

# The image of a query holds a red and a blue patch, and its box the red one alone.
_LEFT, _RIGHT = slice(4, 12), slice(20, 28)


def encoder():
    """The colours themselves are its only stage."""
    images = keras.Input((8, 8, 3))
    colors = keras.layers.Conv2D(3, 1, use_bias=False, name="colors")
    outputs = colors(images)
    colors.set_weights([np.eye(3)[np.newaxis, np.newaxis]])
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(outputs))
    model.stage_outputs = {"colors": outputs}
    return Encoder(model, data_lib.Preprocessing(size=8))


def write_image(folder, name, *patches):
    """Patches `(columns, (red, green, blue))` on black, 32 x 32, as a PNG file."""
    folder.mkdir(exist_ok=True)
    pixels = np.zeros((32, 32, 3), np.uint8)
    for columns, color in patches:
        pixels[8:24, columns] = color
    (folder / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())


def write_query(folder, name, query, good=(), ok=(), junk=()):
    folder.mkdir(exist_ok=True)
    parts = {"good": good, "ok": ok, "junk": junk}
    (folder / f"{name}_query.txt").write_text(query)
    for part, names in parts.items():
        (folder / f"{name}_{part}.txt").write_text("\n".join(names))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "jpg"
    write_image(folder, "both", (_LEFT, (255, 0, 0)), (_RIGHT, (0, 0, 255)))
    write_image(folder, "red", (_RIGHT, (255, 0, 0)))
    write_image(folder, "orange", (_LEFT, (255, 128, 0)))
    write_image(folder, "pink", (_RIGHT, (255, 0, 153)))
    write_image(folder, "violet", (_LEFT, (153, 0, 255)))
    write_image(folder, "blue", (_LEFT, (0, 128, 255)))
    return folder


def retrieved(images, tmp_path, **arguments):
    arguments = {
        "longer_side": 16,
        "levels": 1,
        "out": str(tmp_path / "retrieval.json"),
        "verbose": 0,
    } | arguments
    return retrieve.retrieve(encoder(), str(images), str(tmp_path / "lab"), **arguments)


def test_average_precision_by_hand(images, tmp_path, capsys):
    """One region, the whole image: its largest red, green and blue, as a unit vector.

    The box holds (1, 0, 0). Cosines: red 1, orange 1 / sqrt(1.25) = 0.89, pink
    1 / sqrt(1.36) = 0.86, both 0.71, violet 0.6 / sqrt(1.36) = 0.51, blue 0.
    """
    lab = tmp_path / "lab"
    found = {"good": ["both"], "ok": ["red"], "junk": ["orange"]}
    write_query(lab, "boxed_1", "oxc1_both 0.0 0.0 16.0 32.0", **found)
    write_query(lab, "strict_1", "both 0 0 16 32", good=["both", "red"])
    write_query(lab, "whole_1", "both 0 0 32 32", **found)
    result = retrieved(images, tmp_path, verbose=1)
    expected = {
        # red, pink, both: (1 + (1/2 + 2/3) / 2) / 2; orange is left out.
        "boxed_1": 19 / 24,
        # red, orange, pink, both: (1 + (1/3 + 2/4) / 2) / 2.
        "strict_1": 17 / 24,
        # The whole image is (1, 0, 1): both 1, pink and violet 1.6 / sqrt(2.72) =
        # 0.97, red 0.71, blue 0.63: (1 + (1/3 + 2/4) / 2) / 2.
        "whole_1": 17 / 24,
    }
    assert result["average_precision"] == pytest.approx(expected)
    assert result["mean_average_precision"] == pytest.approx(53 / 72)
    assert result["bad_files"] == result["missing"] == []
    assert result["protocol"] == (
        "R-MAC of colors, L=1, longer side 16, no whitening; 3 queries cut to "
        f"their boxes, 6 images of {images}"
    )
    assert json.loads((tmp_path / "retrieval.json").read_text()) == result
    assert "mean average precision         73.61\n" in capsys.readouterr().out


def test_the_result_of_a_run_says_of_which_step(images, tmp_path):
    write_query(tmp_path / "lab", "q_1", "red 0 0 9 9", good=["pink"])
    assert retrieved(images, tmp_path)["steps"] is None
    run = tmp_path / "run"
    run.mkdir()
    own = data_lib.Preprocessing(size=8)
    keras_file.save(staged.Staged((None, None, 3)), str(run / "encoder.keras"), own)
    (run / "run.json").write_text('{"results": {"steps": 7}}')
    given = dict(longer_side=16, levels=1, verbose=0)
    retrieve.retrieve(str(run), str(images), str(tmp_path / "lab"), **given)
    assert json.loads((run / "retrieval.json").read_text())["steps"] == 7


def test_unreadable_and_missing_images(images, tmp_path, capsys):
    (images / "red.png").write_bytes(b"not an image")
    names = ["both", "red", "gone"]
    write_query(tmp_path / "lab", "q_1", "both 0 0 16 32", good=names)
    result = retrieved(images, tmp_path, max_bad_fraction=0.2, verbose=1)
    # orange, pink, both: 1 of 3 found, at rank 3: (0 + 1/3) / 2 / 3.
    assert result["average_precision"] == {"q_1": pytest.approx(1 / 18)}
    assert [name.endswith("red.png") for name in result["bad_files"]] == [True]
    assert result["missing"] == ["gone", "red"]
    printed = capsys.readouterr().out
    assert "1 images could not be read" in printed
    assert "2 images to find are missing: gone, red\n" in printed
    with pytest.raises(ValueError, match="more than max_bad_fraction=0.01"):
        retrieved(images, tmp_path)


def test_whitening_is_learned_from_the_other_images(images, tmp_path):
    write_query(tmp_path / "lab", "q_1", "both 0 0 16 32", good=["red"])
    others, rng = tmp_path / "others", np.random.default_rng(0)
    for i in range(8):
        write_image(others, str(i), (_LEFT, tuple(rng.integers(50, 255, 3))))
    (others / "8.png").write_bytes(b"not an image")
    result = retrieved(
        images, tmp_path, whiten_data=str(others), components=2, max_bad_fraction=0.2
    )
    assert f"PCA-whitening to 2 learned on 8 images of {others};" in result["protocol"]
    assert [name.endswith("8.png") for name in result["bad_files"]] == [True]
    with pytest.raises(ValueError, match="components=4 received, expected 1 to 3, th"):
        retrieved(
            images, tmp_path, whiten_data=str(others), components=4,
            max_bad_fraction=0.2,
        )  # fmt: skip


@pytest.mark.parametrize(
    "query, found, arguments, sentence",
    [
        ("gone 0 0 9 9", "red", {}, "image 'gone' of the query q_1 is not in"),
        ("red 0 0 9 9", "gone", {}, "None of the 1 images that the query q_1 should"),
        ("red 40 0 50 9", "red", {}, "'red' of the query q_1 gives no features: The b"),
        ("bad 0 0 9 9", "red", {}, "'bad' .* gives no features: it cannot be decoded"),
        ("red 0 0 9 9", "red", {"stage": "conv9"}, "stage 'conv9' received, but the s"),
        ("red 0 0 9 9", "red", {"components": 2}, "components=2 received without"),
        ("red 0 0 9 9", "red", {"out": None}, "No place for the result"),
        ("red 0 0 9 9", "red", {"whiten_data": "/no/where"}, "'/no/where' is not the"),
    ],
)
def test_bad_input(images, tmp_path, monkeypatch, query, found, arguments, sentence):
    (images / "bad.png").write_bytes(b"not an image")
    write_query(tmp_path / "lab", "q_1", query, good=[found])
    monkeypatch.setattr(rmac.MapReader, "maps", None)  # Before the images are read.
    with pytest.raises(ValueError, match=sentence):
        retrieved(images, tmp_path, max_bad_fraction=0.5, **arguments)


def test_what_is_searched_teaches_no_whitening(images, tmp_path):
    write_query(tmp_path / "lab", "q_1", "red 0 0 9 9", good=["red"])
    with pytest.raises(ValueError, match="whiten_data=.* received, expected other im"):
        retrieved(images, tmp_path, whiten_data=str(images))
    write_image(tmp_path / "others", "new", (_LEFT, (9, 9, 99)))
    with pytest.raises(ValueError, match="other images .*, and none of those"):
        retrieved(images, tmp_path, whiten_data=str(tmp_path))  # With others beside.


def test_bad_folders_and_encoders(images, tmp_path):
    write_query(tmp_path / "lab", "q_1", "red 0 0 9 9", good=["red"])
    write_image(images / "deeper", "red", (_LEFT, (1, 2, 3)))
    with pytest.raises(ValueError, match="two images of the name 'red'"):
        retrieved(images, tmp_path)
    with pytest.raises(ValueError, match="'/no/where' is not there"):
        retrieved("/no/where", tmp_path)
    bare = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    arguments = (bare, str(images), str(tmp_path / "lab"))
    with pytest.raises(ValueError, match="carries no preprocessing"):
        retrieve.retrieve(*arguments, out=str(tmp_path / "r.json"))
    version = saved_model(encoder(), tmp_path / "m")
    with pytest.raises(
        ValueError, match="the encoder is not the folder of a run; give"
    ):
        retrieve.retrieve(version, *arguments[1:])
    arguments = (Encoder(bare, data_lib.Preprocessing(size=8)), *arguments[1:])
    with pytest.raises(ValueError, match="names no stages"):
        retrieve.retrieve(*arguments, out=str(tmp_path / "r.json"))

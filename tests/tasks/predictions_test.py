import csv
import json

import numpy as np
import pytest

from tfssl.tasks import predictions

_NAMES = ("ant", 'b,e"e', "cät")
_ROWS = np.array([[0.2, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3]], np.float32)


def found(rows=_ROWS, **given):
    images = ("photos/a,1.jpg", "photos/ü.jpg")
    return predictions.Predictions(images, np.arange(2), rows, _NAMES, **given)


def test_rows_name_the_most_probable_classes():
    first, second = found(top=2)
    assert first.image == "photos/a,1.jpg" and first.classes == ('b,e"e', "ant")
    np.testing.assert_allclose(first.probabilities, [0.7, 0.2])
    assert second.classes == ("ant", 'b,e"e')  # Equal ones in their order.
    assert found(top=9)[-1].classes == _NAMES
    assert [row.image for row in found()[:1]] == ["photos/a,1.jpg"]
    assert str(first) == 'photos/a,1.jpg: b,e"e 0.7, ant 0.2'
    assert repr(found()) == "<Predictions: 2 images, 3 classes>"
    assert len(found()) == 2


def test_a_threshold_may_leave_any_number_of_them():
    rows = np.array([[0.9, 0.5, 0.95], [0.1, 0.2, 0.49]], np.float32)
    first, second = found(rows, threshold=0.5)
    assert first.classes == ("cät", "ant", 'b,e"e')
    assert second.classes == second.probabilities == ()
    assert str(second) == "photos/ü.jpg: no class"


@pytest.fixture
def mixed():
    rows = np.array([[0.9, 0.1, 0.7654321], [0.1, 0.2, 0.49]], np.float32)
    return found(rows, threshold=0.5)


def test_csv_has_a_line_for_every_class_that_is_named(tmp_path, mixed):
    predictions.write(str(tmp_path / "p.csv"), [mixed])
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["image", "rank", "class", "probability"]
    assert lines == [
        ["photos/a,1.jpg", "1", "ant", "0.9"],
        ["photos/a,1.jpg", "2", "cät", "0.765432"],
        ["photos/ü.jpg", "", "", ""],
    ]


def test_json_lines_have_a_line_for_every_image(tmp_path, mixed):
    predictions.write(str(tmp_path / "p.jsonl"), [mixed])
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {
            "image": "photos/a,1.jpg",
            "classes": ["ant", "cät"],
            "probabilities": [0.9, 0.765432],
        },
        {"image": "photos/ü.jpg", "classes": [], "probabilities": []},
    ]


def test_npz_has_all_probabilities(tmp_path, mixed):
    predictions.write(str(tmp_path / "p.npz"), [mixed])
    stored = np.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(stored["probabilities"], mixed.probabilities)
    assert stored["names"].tolist() == list(mixed.images)
    assert stored["class_names"].tolist() == list(_NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]

import logging

import numpy as np
import pytest

from tfssl.data import labels as labels_lib
from tfssl.evaluation import features
from tfssl.tasks import label_budgets

_LABELS = [0] * 9 + [1] * 3 + [-1] * 5  # Class 1 has three, five are unknown.
_NAMES = ("ant", "bee")


def test_numbers_and_shares():
    found = label_budgets.parsed(("1", "3", "2.5%", "100%"), _LABELS, _NAMES)
    assert found == {"per_class": (1, 3), "fractions": (0.025, 1.0)}


def test_of_the_defaults_what_cannot_be_filled_is_left_out_with_a_line(caplog):
    with caplog.at_level(logging.WARNING):
        found = label_budgets.parsed(None, _LABELS, _NAMES)
    assert found == {"per_class": (1,), "fractions": (0.1, 1.0)}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "5 labels per class are left out: class 'bee' has 3 labelled training images."
    )
    assert label_budgets.parsed(None, [0] * 5)["per_class"] == (1, 5)


def test_what_unreadable_images_take_away_is_left_out():
    found = label_budgets.parsed(("1", "3", "10%"), _LABELS)
    fewer = label_budgets.fitting(found, _LABELS[:11])
    assert fewer == {"per_class": (1,), "fractions": (0.1,)}


@pytest.mark.parametrize(
    "budgets, sentence",
    [
        (("4",), "label budget '4' received, but class 'bee' has 3 labelled"),
        (("5000",), "label budget '5000' received, but class 'bee' has 3"),
        (("150%",), "label budget '150%' received, expected"),
        (("0%",), "label budget '0%' received, expected"),
        (("1", "nan%"), "label budget 'nan%' received, expected"),
        (("9" * 20,), "label budget '9+' received, expected"),
        (("",), "label budget '' received, expected"),
        ((5.5,), "label budget 5.5 received, expected"),
        (("1", "50%", "1"), "label budget '1' received twice; give it once"),
        ((), "received, expected one or more"),
        ("10%", "budgets='10%' received, expected one or more"),
    ],
)
def test_what_is_asked_for_in_vain_is_refused(budgets, sentence):
    with pytest.raises(ValueError, match=sentence):
        label_budgets.parsed(budgets, _LABELS, _NAMES)


def test_unreadable_images_of_a_list_are_left_out(caplog):
    labels = np.array([0, 1, 0, 1, 0])
    listed = labels_lib.among(labels_lib.select(labels, fraction=1.0), labels, range(5))
    readable = np.array([0, 1, 4])
    bank = features.Features(np.zeros((3, 2), np.float32), labels[readable], readable)
    asked = label_budgets.LabelBudgets(label_list="lists/mine.txt")
    with caplog.at_level(logging.WARNING):
        (budget,) = asked.drawn((label_budgets.NONE, listed), bank, None, seed=0)
    assert budget.name == "list mine.txt"
    assert budget.selections[0].indices.tolist() == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "2 of the 5 images of lists/mine.txt could not be read and are left out."
    ]
    nothing = bank.take([])
    with pytest.raises(ValueError, match="None of the 5 images of lists/mine.txt can"):
        asked.drawn((label_budgets.NONE, listed), nothing, None, seed=0)
    whole = labels_lib.select(labels, per_class=1)
    some = labels_lib.among(whole, labels, np.arange(5))
    assert some.sha256 == whole.sha256  # Of the same images.

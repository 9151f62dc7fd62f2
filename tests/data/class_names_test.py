import numpy as np
import pytest

from tfssl.data import class_names, sources


def _source(labels, names=None, name="second"):
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return sources.ArraySource(images, labels, name=name, class_names=names)


def _matched(labels, names, reference_labels, reference_names):
    reference = _source(reference_labels, reference_names, name="first")
    return class_names.matched(_source(labels, names), reference)


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level("WARNING", "absl")


def test_the_same_names_keep_their_numbers(caplog):
    source = _source([1, 0, -1], ("ant", "bee"))
    assert class_names.matched(source, _source([0, 1], ("ant", "bee"))) is source
    for labels in ([0, 1], None), (None, [0, 1]):
        source, reference = (_source(some, ("x", "y")) for some in ([0, 0], [1, 1]))
        source.labels, reference.labels = labels
        assert class_names.matched(source, reference) is source
    assert not caplog.messages


def test_names_decide_and_classes_of_one_side_are_said(caplog):
    own = ("_thumbs", "ant", "cat", "dog")
    given = _source([0, 0, 1, 2, 3, -1], own)
    reference = _source([0, 1, 2, 2], ("ant", "bee", "cat"), name="first")
    source = class_names.matched(given, reference)
    # What only the second has is numbered after the classes of the first.
    assert source.class_names == ("ant", "bee", "cat", "_thumbs", "dog")
    assert source.labels.tolist() == [3, 3, 0, 2, 4, -1]
    assert given.labels.tolist() == [0, 0, 1, 2, 3, -1] and given.class_names == own
    (line,) = caplog.messages
    assert "second and first are matched by name" in line
    assert "only first has bee; only second has _thumbs, dog." in line
    assert "3 images count as wrong" in line


def test_a_class_without_images_is_no_class(caplog):
    source = _matched([0, 1], ("ant", "bee", "cat"), [0, 1], ("bee", "ant"))
    assert source.labels.tolist() == [1, 0]
    assert not caplog.messages


def test_numbers_beside_numbers(caplog):
    source = _matched([1, 2, 3], None, [0, 1, 2], None)
    assert source.labels.tolist() == [1, 2, 3] and source.class_names is None
    (line,) = caplog.messages
    assert "matched by number: only first has 0; only second has 3." in line


def test_numbers_are_names_that_are_their_text(caplog):
    source = _matched([10, 2, 2, -1], None, [0, 1], ("10", "02"))
    assert source.labels.tolist() == [0, 1, 1, -1] and not caplog.messages
    assert source.class_names == ("10", "02")
    source = _matched([0, 2], None, [0, 1], ("1", "2"))  # Counted from 0 and from 1.
    assert source.labels.tolist() == [2, 1] and source.class_names == ("1", "2", "0")
    assert "only first has 1; only second has 0" in caplog.messages[0]
    caplog.clear()
    source = _matched([10, 2, -1], None, [0, 1], ("10.0", "2.0"))
    assert source.labels.tolist() == [0, 1, -1] and not caplog.messages
    source = _matched([0, 1, -1], ("10", "2"), [2, 10], None)
    assert source.labels.tolist() == [10, 2, -1] and source.class_names is None


def test_numbers_are_else_places_in_the_names_and_said_to_be(caplog):
    source = _matched([1, 0, -1], None, [0, 1], ("ant", "bee"))
    assert source.labels.tolist() == [1, 0, -1]
    assert source.class_names == ("ant", "bee")
    source = _matched([1, 0], ("ant", "bee"), [0, 1], None)
    assert source.labels.tolist() == [1, 0]
    assert len(caplog.messages) == 2
    assert "second are numbers, those of first are names" in caplog.messages[0]
    assert "0 = ant, 1 = bee. Give both" in caplog.messages[0]
    assert "first are numbers, those of second are names" in caplog.messages[1]
    for pair in (([1, 2], None, [0, 1], ("ant", "bee")),
                 ([0, 1], ("ant", "bee"), [1, 2], None)):  # fmt: skip
        with pytest.raises(ValueError, match="numbers up to 2, .* are 2 names"):
            _matched(*pair)


def test_no_class_in_common(caplog):
    source = _matched([0, 1], ("ant", "bee"), [0, 1], ("cat", "dog"))
    assert source.labels.tolist() == [2, 3]
    assert "They share no class. Its 2 images count as wrong." in caplog.messages[0]


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("07", "1", "3"),
                                   ("10", "2", "ant", "zebra")])  # fmt: skip
def test_a_teachers_classes_are_matched_by_the_same_rule(names, caplog):
    """Numbers beside names: by value, or else by place and with a warning."""
    labels = [1, 7, 3, -1] if names[0] == "07" else [1, 0, 2, -1]
    source = _matched(labels, None, range(len(names)), names)
    told = list(caplog.messages)
    caplog.clear()
    taught = class_names.placed(_source(labels), names)
    assert taught.labels.tolist() == source.labels.tolist()
    assert taught.class_names == source.class_names == names
    by_place = [line for line in told if "taken as places" in line]
    assert len(by_place) == (names[0] != "07")
    mine = [line.replace("those of the teacher", "those of first")
            for line in caplog.messages]  # fmt: skip
    assert mine == by_place


def test_a_class_that_a_teacher_does_not_know_is_refused():
    with pytest.raises(ValueError, match="numbers up to 3, those of the teacher are 2"):
        class_names.placed(_source([1, 3]), ("ant", "bee"))
    with pytest.raises(ValueError, match="images of class '3', expected only those of"):
        class_names.placed(_source([1, 3]), ("01", "2"))
    with pytest.raises(ValueError, match="images of class 'bee' and 1 more, expected"):
        class_names.placed(_source([0, 1, 2], ("ant", "bee", "cat")), ("ant", "dog"))

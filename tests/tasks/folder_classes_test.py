import pytest

from tests.tasks import pretrain_test as small
from tfssl.data import sources
from tfssl.tasks import folder_classes


def _unsorted(labels):
    if labels == "folders":
        raise sources.NoClassFolder("outside of class folders")
    return sources.ArraySource(small.images()[0], name=labels)


def test_an_unsorted_folder_has_no_labels(caplog):
    with caplog.at_level("WARNING", "absl"):
        assert folder_classes.or_none(_unsorted, "auto").name == "auto"
        assert not caplog.messages
        assert folder_classes.or_none(_unsorted, "folders").name == "none"
    assert "none holds image files outside of class folders" in caplog.messages[0]


def test_why_folders_are_classes_is_explained_where_it_was_not_asked_for():
    for labels, told in (
        ("folders", "^outside of"),
        ("auto", "The training .* x holds"),
    ):
        with pytest.raises(ValueError, match=told):
            with folder_classes.explained("training", "x", labels):
                _unsorted("folders")

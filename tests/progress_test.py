import io
import sys

import pytest

from tfssl import progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, wanted, drawn",
    [
        (_Terminal, True, True),
        (_Terminal, False, False),
        (io.StringIO, True, False),
    ],
)
def test_a_bar_is_drawn_for_who_watches_and_never_into_a_file(
    monkeypatch, stream, wanted, drawn
):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert list(progress.bar(range(3), wanted=wanted, desc="steps")) == [0, 1, 2]
    assert ("steps" in sys.stderr.getvalue()) == drawn


def test_a_notebook_is_watched(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with progress.bar(total=2, desc="steps") as bar:
        bar.update()
    assert "steps" in sys.stderr.getvalue()

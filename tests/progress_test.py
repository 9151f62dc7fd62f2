import io
import sys

import pytest

from tfssl import progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


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
    assert list(progress.bar(range(3), wanted=wanted, desc="steps")) == [0, 1, 2]
    assert ("steps" in sys.stderr.getvalue()) == drawn


def test_a_notebook_is_watched(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with progress.bar(total=2, desc="steps") as bar:
        bar.update()
    assert "steps" in sys.stderr.getvalue()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_file_gets_plain_lines_of_long_work(monkeypatch, wanted):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "_SECONDS", 0)  # All work takes longer.
    with progress.bar(total=40, wanted=wanted, desc="probe") as bar:
        bar.update(10)
        bar.set_postfix(loss=1, refresh=False)
        bar.update(10)
    lines = sys.stderr.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == (
        ["probe: 0 of 40", "probe: 10 of 40", "probe: 20 of 40"] if wanted else []
    )
    assert "\r" not in sys.stderr.getvalue()


def test_a_file_is_told_of_no_end_that_nobody_knows(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "_SECONDS", 0)
    assert list(progress.bar(iter("ab"), desc="probe")) == ["a", "b"]
    lines = sys.stderr.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "probe: 0",
        "probe: 1",
        "probe: 2",
    ]
    assert not any("left" in line for line in lines)


def test_keras_draws_its_bar_only_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert [progress.of_fit(verbose) for verbose in (0, 1, 2)] == [0, 2, 2]
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert [progress.of_fit(verbose) for verbose in (0, 1, 2)] == [0, 1, 2]

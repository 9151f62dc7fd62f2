import dataclasses
import inspect
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest

from tfssl.tasks import arguments
from tfssl.tasks.arguments import Above, OneOf, Path, Range

TABLE = {"first": 1, "second": 2}


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images.

    Attributes:
        split: part of the data, for
            those that have parts. Not all have.
        labels: where labels come from.
    """

    split: str | None = None
    labels: Literal["auto", "none"] = "auto"


@arguments.task
def job(
    data: Any,
    out: Path = "out",
    *,
    images: Images,
    epochs: Annotated[int, Range(1, 1_000)] = 10,
    method: Annotated[str, OneOf(TABLE)] = "first",
    recipe: Annotated[str | Sequence[str] | None, OneOf(TABLE)] = None,
    rate: Annotated[float, Above(0)] = 0.1,
    scale: float = 1.0,
    drops: Sequence[float] | None = None,
    depth: Literal[8, 16] = 8,
    stop: bool = False,
    hparams: dict | None = None,
):
    """Does something.

    More about it.

    Args:
        data: where it is.
        out: folder.
        epochs: passes.
        method: how.
        recipe: views.
        rate: of learning.
        scale: of it.
        drops: epochs of
            drops: two lines.
        depth: bits.
        stop: early.
        hparams: dict.

    Returns:
        All of it.
    """
    return dict(locals())


def test_a_task_gets_its_groups_and_users_call_it_flat():
    got = job("here", epochs=3, split="test")
    assert got["images"] == Images(split="test", labels="auto")
    assert (got["data"], got["out"], got["epochs"]) == ("here", "out", 3)
    assert "split" not in got
    names = list(inspect.signature(job).parameters)
    assert names[:5] == ["data", "out", "split", "labels", "epochs"]
    assert inspect.signature(job).parameters["labels"].default == "auto"


def test_the_docstring_lists_the_arguments_of_groups():
    doc = inspect.getdoc(job)
    assert doc.startswith("Does something.\n\nMore about it.\n\nArgs:\n    data: where")
    assert (
        "    split: part of the data, for those that have parts. Not all have.\n" in doc
    )
    assert "    drops: epochs of drops: two lines.\n" in doc
    assert doc.endswith("Returns:\n    All of it.")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(epochs=0), "epochs=0 received, expected a whole number from 1 to 1000."),
        (dict(epochs=True), "epochs=True received, expected a whole number from"),
        (dict(epochs=2.0), "epochs=2.0 received"),
        (dict(epochs=10**20), "expected a whole number from 1 to 1000."),
        (dict(rate=0), "rate=0 received, expected a number above 0."),
        (dict(rate=float("nan")), "rate=nan received"),
        (dict(rate=float("inf")), "rate=inf received"),
        (dict(rate="0.1"), "rate='0.1' received"),
        (dict(scale=float("inf")), "a number from -2147483647 to 2147483647."),
        (
            dict(method="third"),
            "method='third' received, expected one of first, second.",
        ),
        (
            dict(recipe="third"),
            "recipe='third' received, expected one of first, second or a list of "
            "texts or None.",
        ),
        (dict(labels="some"), "labels='some' received, expected one of auto, none."),
        (dict(split=3), "split=3 received, expected a text or None."),
        (dict(depth=9), "depth=9 received, expected one of 8, 16."),
        (dict(drops=3.0), "drops=3.0 received, expected a list of numbers or None."),
        (dict(drops=("a",)), "expected a list of numbers"),
        (dict(stop=1), "stop=1 received, expected True or False."),
        (dict(hparams=[1]), "hparams=[1] received, expected a dict or None."),
        (dict(out=3), "out=3 received, expected a text or a path."),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(wrong, sentence):
    with pytest.raises(ValueError) as caught:
        job("here", **wrong)
    assert sentence in str(caught.value)


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert job("here", out="~/x")["out"] == "/home/me/x"
    with pytest.raises(ValueError, match="out='' received, expected a path"):
        job("here", out="")


def test_the_thing_itself_may_stand_for_its_name():
    assert job("here", recipe=("a", "b"))["recipe"] == ("a", "b")
    assert job("here", drops=(1, 2.5), rate=1)["rate"] == 1


def test_names_are_those_of_the_call():
    with pytest.raises(TypeError, match="job: .*'epoch'"):
        job("here", epoch=3)
    with pytest.raises(TypeError, match="job: missing a required argument: 'data'"):
        job()


def test_names_of_a_table_are_read_when_they_are_asked_for():
    with pytest.raises(ValueError, match="first, second"):
        job("here", method="third")
    TABLE["third"] = 3
    try:
        assert job("here", method="third")["method"] == "third"
    finally:
        del TABLE["third"]


def test_an_argument_needs_a_type_and_a_text():
    def untyped(data):
        """Does.

        Args:
            data: something.
        """

    def untold(data: str):
        """Does."""

    for function in (untyped, untold):
        with pytest.raises(TypeError, match="data.*lacks an annotation or a text"):
            arguments.task(function)

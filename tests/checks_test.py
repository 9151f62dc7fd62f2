import pathlib

import numpy as np
import pytest

from tfssl import checks

_NAN, _INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (checks.whole, (1, 5, np.int64(2)), (0, -1, 1.0, "3", None, True, 10**20)),
        (checks.seed, (0, 7), (-1, 0.5, None, 2**31)),
        (checks.positive, (1, 0.1, np.float32(2)), (0, -0.1, _NAN, 1e20, "1", True)),
        (checks.not_negative, (0, 0.1, 3), (-1, _NAN, _INF, None, (1,))),
        (checks.share, (0, 0.5, 1), (-0.1, 1.1, _NAN, "1")),
        (checks.true_share, (0.1, 0.9), (0, 1, -0.1, _NAN, "0.5")),
        (checks.fraction_below_one, (0, 0.5), (1, -0.1, _NAN, None)),
        (
            checks.path,
            ("a", "~/b", pathlib.Path("c")),
            ("", " ", None, 5, "a\0b", "\udcff"),
        ),
        (
            checks.file_name,
            ("a", "a b.c", ".x"),
            ("", " ", ".", "..", "../x", "a/b", "a\\b", "a\0", "a\n", None, "x" * 300),
        ),
    ],
)
def test_values_in_range(check, good, bad):
    for value in good:
        check({"k": value, "other": None}, "k")
    for value in bad:
        with pytest.raises(ValueError, match="^k=.* received, expected .*\\.$"):
            check({"k": value}, "k")


def test_what_is_received_is_told_in_one_line():
    for value in (np.zeros((3, 4, 4)), "x\ny" * 500):
        with pytest.raises(ValueError) as caught:
            checks.positive({"k": value}, "k")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_least_most_and_none():
    checks.whole({"queue_size": 0}, "queue_size", least=0)
    with pytest.raises(ValueError, match="queue_size=-1 .* a whole number, 0 or more"):
        checks.whole({"queue_size": -1}, "queue_size", least=0)
    with pytest.raises(ValueError, match="n=11 .* a whole number from 1 to 10"):
        checks.whole({"n": 11}, "n", most=10)
    for check in (checks.whole, checks.positive, checks.not_negative, checks.path):
        check({"n": None}, "n", optional=True)


@pytest.mark.parametrize(
    "bounds, good, bad, words",
    [
        (checks.Range(1), (1, 5), (0, 0.9), ", 1 or more"),
        (checks.Above(0), (0.1, 5), (0, -1), " above 0"),
        (checks.Range(1, 3), (1, 3), (0, 4), " from 1 to 3"),
        (checks.Above(0, 1), (0.1, 1), (0, 1.1), " in (0, 1]"),
        (checks.Range(0, 1, with_high=False), (0, 0.9), (-0.1, 1), " in [0, 1)"),
        # Who gave too much is told how much would do.
        (checks.Range(1), (1,), (10**20,), " from 1 to 2147483647"),
        (checks.Above(0), (1,), (_INF,), " in (0, 2147483647]"),
    ],
)
def test_bounds_say_what_they_hold(bounds, good, bad, words):
    for value in good:
        checks.within({"k": value}, bounds, "k")
    for value in bad:
        with pytest.raises(ValueError) as caught:
            checks.within({"k": value}, bounds, "k")
        said = f"k={value!r} received, expected a number{words}."
        assert str(caught.value) == said
    for value in (_NAN, "1", True, None):
        with pytest.raises(ValueError, match=f"k={value!r} received"):
            checks.within({"k": value}, bounds, "k")


def test_one_of():
    checks.one_of({"mode": "a"}, "mode", ("a", "b"))
    for bad in ("c", None, 1):
        with pytest.raises(ValueError, match="mode=.* received, expected one of a, b"):
            checks.one_of({"mode": bad}, "mode", ("a", "b"))


def test_keywords_of_a_function():
    def build(shape, *, width=1, clip=False, form="a", size=None, **rest):
        del shape, width, clip, form, size, rest

    def check(**given):
        checks.keywords(build, given, "arg", "build", without=("shape",))

    check(width=0.5, clip=True, form="b", size=(1, 2))
    for given, sentence in (
        ({"nope": 5}, "arg 'nope' received, but build takes only: width, clip, form"),
        ({"shape": 5}, "arg 'shape' received, but build takes only: width"),
        ({"width": "abc"}, "^width='abc' received, expected a number"),
        ({"width": _NAN}, "^width=nan received, expected a finite number"),
        ({"size": 1e20}, "^size=1e.20 received, expected a finite number, at most"),
        ({"clip": "no"}, "^clip='no' received, expected True or False"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check(**given)

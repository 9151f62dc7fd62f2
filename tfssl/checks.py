"""Checks of arguments: each says in one sentence what was received and expected.

Bounds say what holds and how it is called, here and in the annotations of tasks. The
entries of a dict are checked by name, so that a caller hands over its `locals()`, or
the settings of a task, and the sentence has the name that the user wrote.
"""

import dataclasses
import difflib
import functools
import inspect
import numbers
import os

# No number of these is larger, but by mistake; beyond 32 bits many overflow.
LARGEST = 2**31 - 1
_LONGEST_NAME = 200
_LONGEST_SHOWN = 200
_LONGEST_LIST, _NEAR = 350, 8
# What a number is called that must be whole, or need not be.
NOUNS = {int: "a whole number", float: "a number"}


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number.

    Attributes:
        low: the least.
        high: the largest.
        with_low: whether `low` itself is in.
        with_high: whether `high` itself is in.
    """

    low: float
    high: float = LARGEST
    with_low: bool = True
    with_high: bool = True

    def holds(self, value):
        """Whether a number is in these bounds; NaN never is."""
        above = value >= self.low if self.with_low else value > self.low
        return above and (value <= self.high if self.with_high else value < self.high)

    def words(self, value=None):
        """What follows `a number`, for whom gave this value: `, 1 or more`."""
        if self.high >= LARGEST and not (is_number(value) and value > self.high):
            return f", {self.low} or more" if self.with_low else f" above {self.low}"
        if self.with_low and self.with_high:
            return f" from {self.low} to {self.high}"
        left, right = "(["[self.with_low], ")]"[self.with_high]
        return f" in {left}{self.low}, {self.high}{right}"


Above = functools.partial(Range, with_low=False)


class OneOf:
    """A text that must be one of these names.

    Args:
        names: iterable of str; a dict's keys are read when they are asked for.
    """

    def __init__(self, names):
        self._names = names

    @property
    def names(self):
        return tuple(sorted(self._names))

    def holds(self, value):
        return value in self._names

    def words(self, value=None):
        return listed(self.names, value)


class FileName:
    """A text that names a file of a folder, and leaves it by no way."""

    def holds(self, value):
        return (
            isinstance(value, str)
            and value.strip() not in ("", os.curdir, os.pardir)
            and len(value) <= _LONGEST_NAME
            and all(c not in "/\\" and c.isprintable() for c in value)
        )

    def words(self, value=None):
        return "a file name, no path"


def refused(name, value, expected):
    """The `ValueError` for an argument: what was received, what was expected."""
    text = " ".join(repr(value).split())
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}…"
    return ValueError(f"{name}={text} received, expected {expected}.")


def listed(choices, given=None):
    """What is said of values to choose from: `one of a, b`.

    Of more than a message has room for, those that are most like what was given.
    """
    words = list(map(str, choices))
    if len(", ".join(words)) > _LONGEST_LIST:
        near = difflib.get_close_matches(str(given), words, n=_NEAR, cutoff=0.4)
        near = near or words[:_NEAR]
        words = [*near, f"{len(words) - len(near)} others"]
    return f"one of {', '.join(words)}"


def is_number(value, kind=float):
    """Whether this is a number, and a whole one if `kind` is int; bools are none."""
    numbers_of = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, numbers_of) and not isinstance(value, bool)


def within(given, bounds, *names, kind=float, optional=False):
    """Raises `ValueError` unless these entries are numbers in these bounds.

    Args:
        given: dict.
        bounds: `Range`.
        *names: its keys.
        kind: int for whole numbers, or float.
        optional: whether None will do as well.
    """
    for name, value in _entries(given, names, optional):
        if not is_number(value, kind) or not bounds.holds(value):
            raise refused(name, value, NOUNS[kind] + bounds.words(value))


def whole(given, *names, least=1, most=LARGEST, optional=False):
    """Raises `ValueError` unless these entries are int, from `least` to `most`."""
    within(given, Range(least, most), *names, kind=int, optional=optional)


def seed(given, *names):
    """Raises `ValueError` unless these entries are int that can seed all generators."""
    whole(given, *names, least=0)


def positive(given, *names, optional=False):
    """Raises `ValueError` unless these entries are numbers above 0, to `LARGEST`."""
    within(given, Above(0), *names, optional=optional)


def not_negative(given, *names, optional=False):
    """Raises `ValueError` unless these entries are numbers from 0 to `LARGEST`."""
    within(given, Range(0), *names, optional=optional)


def share(given, *names):
    """Raises `ValueError` unless these entries are numbers in [0, 1]."""
    within(given, Range(0, 1), *names)


def fraction_below_one(given, *names):
    """Raises `ValueError` unless these entries are numbers in [0, 1)."""
    within(given, Range(0, 1, with_high=False), *names)


def true_share(given, *names):
    """Raises `ValueError` unless these entries are numbers in (0, 1)."""
    within(given, Range(0, 1, with_low=False, with_high=False), *names)


def one_of(given, name, choices):
    """Raises `ValueError` unless this entry is one of some values."""
    if given[name] not in choices:
        raise refused(name, given[name], listed(choices, given[name]))


def path(given, *names, optional=False):
    """Raises `ValueError` unless these entries are paths (text or `os.PathLike`)."""
    for name, value in _entries(given, names, optional):
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
        if not text.strip() or "\0" in text:
            raise refused(name, value, "a path")
        try:
            text.encode()
        except UnicodeEncodeError:  # Bytes of another encoding; TensorFlow takes none.
            raise refused(name, value, "a path in UTF-8") from None


def file_name(given, name):
    """Raises `ValueError` unless this entry is a name that stays in its folder."""
    if not FileName().holds(given[name]):
        raise refused(name, given[name], FileName().words())


def keywords(function, given, what, owner, without=()):
    """Raises `ValueError` unless a function takes these arguments of a user.

    What is given must be of the kind of the default, see `like`.

    Args:
        function: what is to be called.
        given: dict, the arguments by name.
        what: what the user calls one of them, `"hparam"`.
        owner: what the user calls the function, `"simclr"`.
        without: names of parameters that are not the user's to set.
    """
    known = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without and parameter.kind is not parameter.VAR_KEYWORD
    }
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{what} {unknown[0]!r} received, but {owner} takes only: "
            f"{', '.join(known)}."
        )
    like(given, {name: known[name].default for name in given})


def like(given, defaults):
    """Raises `ValueError` unless these entries are of the kind of their defaults.

    Where the default is a truth value, so must be the entry; where it is a number, no
    text will do. No number may be beyond `LARGEST`, whatever the default.

    Args:
        given: dict.
        defaults: dict with the same keys.
    """
    for name, value in given.items():
        default = defaults[name]
        if is_number(value) and not abs(value) <= LARGEST:
            raise refused(name, value, f"a finite number, at most {LARGEST}")
        if isinstance(default, bool):
            if value not in (True, False):
                raise refused(name, value, "True or False")
        elif is_number(default) and isinstance(value, str):
            raise refused(name, value, "a number")


def _entries(given, names, optional=False):
    return [(n, given[n]) for n in names if not (optional and given[n] is None)]

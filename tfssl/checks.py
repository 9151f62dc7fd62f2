"""Checks of arguments: each says in one sentence what was received and expected.

The entries of a dict are checked by name, so that a caller hands over its `locals()`,
or the settings of a task, and the sentence has the name that the user wrote.
"""

import inspect
import numbers
import os

# No number of these is larger, but by mistake; beyond 32 bits many overflow.
LARGEST = 2**31 - 1
_LONGEST_NAME = 200


def whole(given, *names, least=1, most=LARGEST, optional=False):
    """Raises `ValueError` unless these entries are int, from `least` to `most`.

    Args:
        given: dict.
        *names: its keys.
        least: int.
        most: int.
        optional: whether None will do as well.
    """
    for name, value in _entries(given, names, optional):
        if not _is_number(value, numbers.Integral) or value < least:
            raise _refused(name, value, f"a whole number, {least} or more")
        if value > most:
            raise _refused(name, value, f"a whole number from {least} to {most}")


def seed(given, *names):
    """Raises `ValueError` unless these entries are int that can seed all generators."""
    whole(given, *names, least=0)


def positive(given, *names, optional=False):
    """Raises `ValueError` unless these entries are numbers above 0, to `LARGEST`."""
    for name, value in _entries(given, names, optional):
        if not _is_number(value) or not value > 0:
            raise _refused(name, value, "a number above 0")
        if value > LARGEST:
            raise _refused(name, value, f"a number above 0, at most {LARGEST}")


def not_negative(given, *names, optional=False):
    """Raises `ValueError` unless these entries are numbers from 0 to `LARGEST`."""
    for name, value in _entries(given, names, optional):
        if not _is_number(value) or not value >= 0:
            raise _refused(name, value, "0 or more")
        if value > LARGEST:
            raise _refused(name, value, f"a number from 0 to {LARGEST}")


def share(given, *names):
    """Raises `ValueError` unless these entries are numbers in [0, 1]."""
    for name, value in _entries(given, names):
        if not _is_number(value) or not 0 <= value <= 1:
            raise _refused(name, value, "a share in [0, 1]")


def fraction_below_one(given, *names):
    """Raises `ValueError` unless these entries are numbers in [0, 1)."""
    for name, value in _entries(given, names):
        if not _is_number(value) or not 0 <= value < 1:
            raise _refused(name, value, "a number in [0, 1)")


def true_share(given, *names):
    """Raises `ValueError` unless these entries are numbers in (0, 1)."""
    for name, value in _entries(given, names):
        if not _is_number(value) or not 0 < value < 1:
            raise _refused(name, value, "a number between 0 and 1 (both excluded)")


def one_of(given, name, choices):
    """Raises `ValueError` unless this entry is one of some values."""
    if given[name] not in choices:
        raise _refused(name, given[name], f"one of {', '.join(map(str, choices))}")


def path(given, *names, optional=False):
    """Raises `ValueError` unless these entries are paths (text or `os.PathLike`)."""
    for name, value in _entries(given, names, optional):
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
        if not text.strip() or "\0" in text:
            raise _refused(name, value, "a path")


def file_name(given, name):
    """Raises `ValueError` unless this entry is a name that stays in its folder."""
    if not is_file_name(given[name]):
        raise _refused(name, given[name], "a file name, no path")


def is_file_name(value):
    """Whether a value is a name that stays in its folder."""
    return (
        isinstance(value, str)
        and value.strip() not in ("", os.curdir, os.pardir)
        and len(value) <= _LONGEST_NAME
        and all(c not in "/\\" and c.isprintable() for c in value)
    )


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
        if _is_number(value) and not abs(value) <= LARGEST:
            raise _refused(name, value, f"a finite number, at most {LARGEST}")
        if isinstance(default, bool):
            if value not in (True, False):
                raise _refused(name, value, "True or False")
        elif _is_number(default) and isinstance(value, str):
            raise _refused(name, value, "a number")


def _entries(given, names, optional=False):
    return [(n, given[n]) for n in names if not (optional and given[n] is None)]


def _is_number(value, kind=numbers.Real):
    return isinstance(value, kind) and not isinstance(value, bool)


def _refused(name, value, expected):
    return ValueError(f"{name}={value!r} received, expected {expected}.")

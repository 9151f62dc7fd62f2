"""Checks of the numbers that methods take."""

import numbers


def whole(given, *names, least=1):
    """Raises `ValueError` unless these entries of a dict are int, `least` or more."""
    for name in names:
        value = given[name]
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"{name}={value!r} received, expected a whole number, {least} or more."
            )


def positive(given, *names):
    """Raises `ValueError` unless these entries of a dict are numbers above 0."""
    for name in names:
        value = given[name]
        if not isinstance(value, numbers.Real) or not value > 0:
            raise ValueError(f"{name}={value!r} received, expected a number above 0.")


def not_negative(given, *names):
    """Raises `ValueError` unless these entries of a dict are numbers, 0 or more."""
    for name in names:
        value = given[name]
        if not isinstance(value, numbers.Real) or not value >= 0:
            raise ValueError(f"{name}={value!r} received, expected 0 or more.")

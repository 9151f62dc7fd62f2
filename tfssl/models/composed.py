"""Encoders that are made of encoders, and take the arguments of those as their own."""

import inspect

from tfssl import checks

# Of every encoder, and not its user's to set.
_OWN = ("input_shape", "name", "trainable")


def with_arguments_of(encoders, build):
    """`build` with a signature that names the further arguments it takes.

    Args:
        encoders: dict of name to builder.
        build: function with `**more`, which it hands on to one of them.

    Returns:
        `build` itself.
    """
    own = inspect.signature(build)
    found = {}
    for builder in encoders.values():
        found = dict(inspect.signature(builder).parameters) | found
    found |= own.parameters
    named = [p for p in found.values() if p.kind is p.KEYWORD_ONLY]
    build.__signature__ = own.replace(parameters=named)
    return build


def check(encoders, of, given):
    """Raises `ValueError` unless there is an encoder `of` that takes these arguments.

    Args:
        encoders: dict of name to builder.
        of: name.
        given: dict of arguments.
    """
    checks.one_of({"of": of}, "of", tuple(encoders))
    checks.keywords(encoders[of], given, "encoder_arg", of, without=_OWN)

"""Decoded images that are kept in memory, and how much of it they may take."""

from tfssl import data as data_lib
from tfssl import processor

_SHARE = 0.25  # Of the free memory, for each set of images.


def keep(source, gib=None, *, free=None):
    """A source (or None), whose decoded images are kept where they fit.

    Args:
        source: a `Source`, or None.
        gib: memory for them, in GiB; 0 keeps none, None takes a quarter of what is
            free.
        free: bytes that are free; None asks.

    Raises:
        ValueError: if they do not fit what was asked for.
    """
    if source is None or gib == 0:
        return source
    given = gib is not None
    if not given:
        gib = _SHARE * (processor.free_memory() if free is None else free) / 2**30
    return data_lib.sources.keep(source, int(gib * 2**30), must=given)

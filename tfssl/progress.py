"""Progress bars, where a person watches."""

import sys

import tqdm


def bar(iterable=None, *, wanted=True, **kwargs):
    """A `tqdm` bar on a terminal or in a notebook; in a log file there is none.

    Args:
        iterable: what is gone through, or None.
        wanted: whether the caller asked for a bar at all.
        **kwargs: of `tqdm.tqdm`.
    """
    return tqdm.tqdm(iterable, disable=not (wanted and _watched()), **kwargs)


def _watched():
    # The stream of a notebook is no terminal.
    return sys.stderr.isatty() or "ipykernel" in sys.modules

"""How far a long work is: a bar where a person watches, else a line now and then."""

import sys

import tqdm

_SECONDS = 60  # Between two lines.
_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"
_WITHOUT_END = "{desc}: {n_fmt}, {elapsed} gone"  # Where the total is not known.


def bar(iterable=None, *, wanted=True, **kwargs):
    """A `tqdm` bar on a terminal or in a notebook, and `Lines` in a log file.

    Args:
        iterable: what is gone through, or None.
        wanted: whether the caller asked for any of it.
        **kwargs: of `tqdm.tqdm`.
    """
    kind = tqdm.tqdm if is_watched(sys.stderr) else Lines
    return kind(iterable, disable=not wanted, **kwargs)


class Lines(tqdm.tqdm):
    """A `tqdm` that prints a plain line every minute, and none in the first.

    Args:
        iterable: what is gone through, or None.
        **kwargs: of `tqdm.tqdm`; how it looks is settled.
    """

    def __init__(self, iterable=None, **kwargs):
        settled = dict(
            leave=False,
            delay=_SECONDS,
            mininterval=_SECONDS,
            maxinterval=_SECONDS,
        )
        super().__init__(iterable, **kwargs | settled)

    @property
    def format_dict(self):
        line = _WITHOUT_END if self.total is None else _LINE
        return super().format_dict | {"bar_format": line}

    def display(self, msg=None, pos=None):
        # Asked for an empty message, to wipe a bar off, it has nothing to do.
        if msg is None:
            print(self, file=self.fp, flush=True)


def of_fit(verbose):
    """Keras's own bar, `verbose=1` of `fit`, only where a person watches it."""
    return 2 if verbose == 1 and not is_watched(sys.stdout) else verbose


def is_watched(stream):
    """Whether what is written there is seen as it comes."""
    # The stream of a notebook is no terminal.
    return stream.isatty() or "ipykernel" in sys.modules

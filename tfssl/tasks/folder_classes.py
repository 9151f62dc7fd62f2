"""Folders whose first level is the class, and folders that are not sorted so."""

import contextlib

from absl import logging

from tfssl.data import sources

# Tasks that learn from labels: a folder's first level is the class by itself.
TAKEN_BY = ("finetune", "distill")


@contextlib.contextmanager
def explained(part, data, labels):
    """Says why folders are classes, where that was not asked for by `labels`."""
    try:
        yield
    except sources.NoClassFolder as error:
        if labels != "auto":
            raise
        raise ValueError(
            f"The {part} images need a class each, but {data} holds image files "
            "outside of class folders; use one folder per class, or a manifest with a "
            "label of each file (manifest:PATH)."
        ) from error


def or_none(open_with, labels):
    """A source that is opened with these labels, of an unsorted folder without any.

    Args:
        open_with: function of `labels` that opens it.
        labels: as for `data.open_source`.
    """
    try:
        return open_with(labels)
    except sources.NoClassFolder:
        source = open_with("none")
        logging.warning(
            "%s holds image files outside of class folders: it trains without labels, "
            "and labels='folders' is for the other images.",
            source.name,
        )
        return source

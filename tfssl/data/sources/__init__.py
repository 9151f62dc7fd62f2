"""What images there are: one function that opens them all, and a module per kind."""

from tfssl.data.sources.aligned import AlignedSource
from tfssl.data.sources.arrays import ArraySource, BytesSource
from tfssl.data.sources.base import Source
from tfssl.data.sources.image_folder import FileSource, NoClassFolder
from tfssl.data.sources.kept import keep
from tfssl.data.sources.opening import (
    OPTIONS,
    fitting,
    holdout,
    kind_of,
    open_source,
)
from tfssl.data.sources.streams import StreamSource

__all__ = [
    "OPTIONS",
    "AlignedSource",
    "ArraySource",
    "BytesSource",
    "FileSource",
    "NoClassFolder",
    "Source",
    "StreamSource",
    "fitting",
    "holdout",
    "keep",
    "kind_of",
    "open_source",
]

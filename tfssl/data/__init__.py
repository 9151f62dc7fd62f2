"""Images in, batches of views out."""

from tfssl.data import (
    class_names,
    label_maps,
    labels,
    masks,
    pipeline,
    sources,
    views,
)
from tfssl.data.pipeline import labeled, multiview
from tfssl.data.preprocessing import Preprocessing
from tfssl.data.sources import holdout, open_source
from tfssl.data.views import recipes
from tfssl.data.views.specs import Tiles, View

__all__ = [
    "Preprocessing",
    "Tiles",
    "View",
    "class_names",
    "holdout",
    "label_maps",
    "labeled",
    "labels",
    "masks",
    "multiview",
    "open_source",
    "pipeline",
    "recipes",
    "sources",
    "views",
]

"""Views of an image: drawing the numbers of a recipe, and applying them.

Randomness and work are apart. `sample` draws, in one stateless call, every number
that the views of a whole batch need; `apply` turns numbers and an image into views
and holds no random operation. The same numbers give the same view in training, in
tests against NumPy and in the contact sheet of `show_views`.

What follows the resize may be left to the device, which `finish` does there.
"""

from tfssl.data.views.applying import apply, apply_packed, white_of
from tfssl.data.views.device import finish, finishing
from tfssl.data.views.drawing import sample, split
from tfssl.data.views.packing import (
    boxes,
    coins_of,
    fields,
    pack,
    skipped_steps,
    tones,
)
from tfssl.data.views.specs import Recipe, Tiles, View, check

__all__ = [
    "Recipe",
    "Tiles",
    "View",
    "apply",
    "apply_packed",
    "boxes",
    "check",
    "coins_of",
    "fields",
    "finish",
    "finishing",
    "pack",
    "sample",
    "skipped_steps",
    "split",
    "tones",
    "white_of",
]

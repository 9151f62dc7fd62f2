"""Encoders, heads and normalization layers.

`models.resnet` is the builder function; the module it lives in is reached as
`tfssl.models.resnet` only by import machinery, never by house code.
"""

from tfssl.models import heads, norms
from tfssl.models.encoders import ENCODERS, encoder
from tfssl.models.resnet import ResNet, resnet

__all__ = ["ENCODERS", "ResNet", "encoder", "heads", "norms", "resnet"]

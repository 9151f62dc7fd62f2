"""Encoders, heads and normalization layers.

`models.resnet`, `models.alexnet` and `models.vgg` are short names of the classes; the
modules they live in are reached as `tfssl.models.resnet` only by import machinery,
never by house code.
"""

from tfssl.models import heads, input_range, norms, remat, sobel
from tfssl.models.alexnet import AlexNet, alexnet
from tfssl.models.encoders import ENCODERS, encoder
from tfssl.models.headed import Headed
from tfssl.models.patch_encoder import PatchEncoder
from tfssl.models.resnet import ResNet, resnet
from tfssl.models.vgg import VGG, vgg

__all__ = [
    "ENCODERS",
    "VGG",
    "AlexNet",
    "Headed",
    "PatchEncoder",
    "ResNet",
    "alexnet",
    "encoder",
    "heads",
    "input_range",
    "norms",
    "remat",
    "resnet",
    "sobel",
    "vgg",
]

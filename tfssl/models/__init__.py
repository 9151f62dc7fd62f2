"""Encoders, heads and normalization layers.

`models.resnet`, `models.revnet`, `models.alexnet`, `models.vgg` and `models.vit` are
short names of the classes; the modules they live in are reached as
`tfssl.models.resnet` only by import machinery, never by house code.
"""

from tfssl.models import heads, input_range, norms, remat, sobel
from tfssl.models.alexnet import AlexNet, alexnet
from tfssl.models.branches import Branches
from tfssl.models.encoders import ENCODERS, check_images, encoder
from tfssl.models.headed import Headed
from tfssl.models.lab import Lab, YCbCr, rgb_to_lab, rgb_to_ycbcr
from tfssl.models.normals import Normals, depth_to_normals
from tfssl.models.patch_encoder import PatchEncoder
from tfssl.models.resnet import ResNet, resnet
from tfssl.models.revnet import RevNet, revnet
from tfssl.models.segmenter import Segmenter
from tfssl.models.tokenizer import Tokenizer
from tfssl.models.vgg import VGG, vgg
from tfssl.models.vit import ViT, vit
from tfssl.models.vit_settings import with_settings

__all__ = [
    "ENCODERS",
    "VGG",
    "AlexNet",
    "Branches",
    "Headed",
    "Lab",
    "Normals",
    "PatchEncoder",
    "ResNet",
    "Tokenizer",
    "RevNet",
    "Segmenter",
    "ViT",
    "alexnet",
    "check_images",
    "YCbCr",
    "alexnet",
    "depth_to_normals",
    "encoder",
    "heads",
    "input_range",
    "norms",
    "remat",
    "resnet",
    "revnet",
    "rgb_to_lab",
    "rgb_to_ycbcr",
    "sobel",
    "vgg",
    "vit",
    "with_settings",
]

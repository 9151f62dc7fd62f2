"""The self-supervised methods, by the name that `--method` takes."""

from tfssl.methods.base import Method
from tfssl.methods.byol import BYOL
from tfssl.methods.moco import MoCo
from tfssl.methods.simclr import SimCLR

METHODS = {
    "byol": BYOL,
    "moco": MoCo,
    "simclr": SimCLR,
}

__all__ = ["BYOL", "METHODS", "Method", "MoCo", "SimCLR"]

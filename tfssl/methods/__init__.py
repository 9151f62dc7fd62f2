"""The self-supervised methods, by the name that `--method` takes."""

from tfssl.methods.base import Method
from tfssl.methods.simclr import SimCLR

METHODS = {
    "simclr": SimCLR,
}

__all__ = ["METHODS", "Method", "SimCLR"]

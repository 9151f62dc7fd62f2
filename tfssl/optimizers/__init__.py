"""Optimizers and schedules."""

from tfssl.optimizers import schedules, slots
from tfssl.optimizers.adamw import AdamW
from tfssl.optimizers.by_name import OPTIMIZERS, build
from tfssl.optimizers.lamb import Lamb
from tfssl.optimizers.larc import LARC
from tfssl.optimizers.lars import LARS
from tfssl.optimizers.sgd import SGD, DecoupledSGD

__all__ = [
    "LARC",
    "LARS",
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "DecoupledSGD",
    "Lamb",
    "build",
    "schedules",
    "slots",
]

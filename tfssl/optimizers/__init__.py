"""Optimizers and schedules."""

from tfssl.optimizers import schedules, slots
from tfssl.optimizers.adamw import AdamW
from tfssl.optimizers.by_name import OPTIMIZERS, build
from tfssl.optimizers.larc import LARC
from tfssl.optimizers.lars import LARS
from tfssl.optimizers.sgd import SGD

__all__ = [
    "LARC",
    "LARS",
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "build",
    "schedules",
    "slots",
]

"""Optimizers and schedules."""

from tfssl.optimizers import schedules
from tfssl.optimizers.by_name import OPTIMIZERS, build
from tfssl.optimizers.lars import LARS
from tfssl.optimizers.sgd import SGD

__all__ = ["LARS", "OPTIMIZERS", "SGD", "build", "schedules"]

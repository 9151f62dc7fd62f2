"""Losses: pure functions of tensors, by family."""

from tfssl.losses import contrastive
from tfssl.losses.contrastive import nt_xent, nt_xent_blockwise

__all__ = ["contrastive", "nt_xent", "nt_xent_blockwise"]

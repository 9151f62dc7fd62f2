"""Losses: pure functions of tensors, by family."""

from tfssl.losses import clustering, contrastive, regression, unit_norm
from tfssl.losses.clustering import (
    cluster_cross_entropy,
    sinkhorn,
    swapped_prediction,
)
from tfssl.losses.contrastive import (
    in_batch_info_nce,
    info_nce,
    nt_xent,
    nt_xent_blockwise,
)
from tfssl.losses.regression import normalized_regression

__all__ = [
    "cluster_cross_entropy",
    "clustering",
    "contrastive",
    "in_batch_info_nce",
    "info_nce",
    "normalized_regression",
    "nt_xent",
    "nt_xent_blockwise",
    "regression",
    "sinkhorn",
    "swapped_prediction",
    "unit_norm",
]

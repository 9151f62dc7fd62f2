"""Losses: pure functions of tensors, by family."""

from tfssl.losses import (
    clustering,
    contrastive,
    masked_tokens,
    nce,
    neighbours,
    pixels,
    regression,
    soft_targets,
    unit_norm,
    variational,
)
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
from tfssl.losses.masked_tokens import masked_token_cross_entropy
from tfssl.losses.nce import noise_contrastive
from tfssl.losses.neighbours import local_aggregation
from tfssl.losses.pixels import pixel_cross_entropy
from tfssl.losses.predictive_coding import predictive_coding
from tfssl.losses.regression import (
    feature_regression,
    normalized_regression,
    pixel_regression,
)
from tfssl.losses.soft_targets import distillation, self_distillation
from tfssl.losses.variational import dvae_elbo, logit_laplace

__all__ = [
    "cluster_cross_entropy",
    "clustering",
    "contrastive",
    "distillation",
    "dvae_elbo",
    "feature_regression",
    "in_batch_info_nce",
    "info_nce",
    "local_aggregation",
    "logit_laplace",
    "masked_token_cross_entropy",
    "masked_tokens",
    "nce",
    "neighbours",
    "noise_contrastive",
    "normalized_regression",
    "nt_xent",
    "nt_xent_blockwise",
    "pixel_cross_entropy",
    "pixel_regression",
    "pixels",
    "predictive_coding",
    "regression",
    "self_distillation",
    "sinkhorn",
    "soft_targets",
    "swapped_prediction",
    "unit_norm",
    "variational",
]

"""The methods: the self-supervised ones by the name that `--method` takes.

`Classification` and `Distillation` are those of `tfssl.finetune` and `tfssl.distill`.
"""

from tfssl.frozen import Frozen
from tfssl.methods.base import Method
from tfssl.methods.byol import BYOL
from tfssl.methods.classification import Classification
from tfssl.methods.cpc import CPC
from tfssl.methods.deepcluster import DeepCluster
from tfssl.methods.deepcluster_v2 import DeepClusterV2
from tfssl.methods.distillation import Distillation
from tfssl.methods.feature_distillation import FeatureDistillation
from tfssl.methods.moco import MoCo
from tfssl.methods.simclr import SimCLR
from tfssl.methods.swav import SwAV

METHODS = {
    "byol": BYOL,
    "cpc": CPC,
    "deepcluster": DeepCluster,
    "deepcluster_v2": DeepClusterV2,
    "feature_distillation": FeatureDistillation,
    "moco": MoCo,
    "simclr": SimCLR,
    "swav": SwAV,
}

__all__ = [
    "BYOL",
    "CPC",
    "Classification",
    "DeepCluster",
    "DeepClusterV2",
    "Distillation",
    "FeatureDistillation",
    "Frozen",
    "METHODS",
    "Method",
    "MoCo",
    "SimCLR",
    "SwAV",
]

"""The methods: the self-supervised ones by the name that `--method` takes.

`Classification` and `Distillation` are those of `tfssl.finetune` and `tfssl.distill`,
`DVAE` that of `tfssl.train_tokenizer`, `Segmentation` that of `tfssl.train_segmenter`.
"""

from tfssl.frozen import Frozen
from tfssl.methods.base import Method
from tfssl.methods.beit import BEiT
from tfssl.methods.byol import BYOL
from tfssl.methods.classification import Classification
from tfssl.methods.cmc import CMC
from tfssl.methods.cpc import CPC
from tfssl.methods.deepcluster import DeepCluster
from tfssl.methods.deepcluster_v2 import DeepClusterV2
from tfssl.methods.dino import DINO
from tfssl.methods.distillation import Distillation
from tfssl.methods.dvae import DVAE
from tfssl.methods.feature_distillation import FeatureDistillation
from tfssl.methods.local_aggregation import LocalAggregation
from tfssl.methods.moco import MoCo
from tfssl.methods.npid import NPID
from tfssl.methods.pirl import PIRL
from tfssl.methods.predictive import Predictive
from tfssl.methods.pretext import Pretext
from tfssl.methods.segmentation import Segmentation
from tfssl.methods.simclr import SimCLR
from tfssl.methods.swav import SwAV

METHODS = {
    "beit": BEiT,
    "byol": BYOL,
    "cmc": CMC,
    "cpc": CPC,
    "deepcluster": DeepCluster,
    "deepcluster_v2": DeepClusterV2,
    "dino": DINO,
    "feature_distillation": FeatureDistillation,
    "local_aggregation": LocalAggregation,
    "moco": MoCo,
    "npid": NPID,
    "pirl": PIRL,
    "pretext": Pretext,
    "predictive": Predictive,
    "simclr": SimCLR,
    "swav": SwAV,
}

__all__ = [
    "BEiT",
    "BYOL",
    "CMC",
    "CPC",
    "Classification",
    "DINO",
    "DVAE",
    "DeepCluster",
    "DeepClusterV2",
    "Distillation",
    "FeatureDistillation",
    "Frozen",
    "LocalAggregation",
    "METHODS",
    "Method",
    "MoCo",
    "NPID",
    "PIRL",
    "Pretext",
    "Predictive",
    "Segmentation",
    "SimCLR",
    "SwAV",
]

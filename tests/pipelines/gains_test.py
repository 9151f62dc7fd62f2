"""Short runs on the digits by the recipes: methods beat a random encoder.

Not predictive learning, which in so few steps teaches no shapes (docs/methods), nor the
methods that need another network first.
"""

import numpy as np
import pytest

from tests.pipelines.flagfiles_test import arguments_of
from tfssl.data.sources import digits
from tfssl.tasks import evaluate, pretrain


def coloured(split, seed):
    """The digits, each in a colour of its own: uint8 images and their classes."""
    source = digits.digits(split)
    grey = source.read(np.arange(source.num_images)).numpy()
    colours = np.random.default_rng(seed).uniform(0.3, 1, (len(grey), 1, 1, 3))
    return (grey * colours).astype(np.uint8), source.labels


def of_colours():
    """The settings of a recipe for CIFAR-10 that coloured digits change."""
    return {
        "data": coloured("train", 0),
        "validation_data": coloured("test", 1),
        "validation_fraction": 0.0,
        "labels": "auto",
        "recipe": "cmc_scenes",
        "image_size": 16,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "lr_scaling": "none",
        "weight_decay": 1e-4,
    }


_MOCO_V1 = {"version": 1, "projection_hidden": None, "symmetric": False}
_MOCO_V3 = {"version": 3, "temperature": 0.5}


# Of 500 images, by 20 neighbours; points are about half of those seen on a CPU.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, points, changes",
    [
        ("byol_digits", 5, {}),
        ("moco_digits", 10, {"hparams": _MOCO_V1}),
        ("moco_digits", 11, {}),
        ("byol_digits", 9, {"method": "moco", "hparams": _MOCO_V3}),
        ("moco_v3_vit_digits", 7, {}),
        ("swav_digits", 12, {}),
        ("dino_digits", 6, {}),
        ("deepcluster_digits", 17, {}),
        ("deepcluster_v2_digits", 11, {}),
        ("npid_digits", 16, {}),
        ("local_aggregation_digits", 12, {"hparams": {"warmup_epochs": 2}}),
        ("pirl_rotation_digits", 9, {}),
        ("pirl_jigsaw_digits", 10, {}),
        ("rotation_digits", 8, {"epochs": 30, "learning_rate": 3e-3}),
        ("jigsaw_digits", 7, {"epochs": 30, "learning_rate": 3e-3}),
        ("cmc_cifar10_small", 5, {}),
        ("cpc_digits", 8, {"epochs": 10}),
    ],
    ids=(
        "byol moco_v1 moco_v2 moco_v3 moco_v3_vit swav dino deepcluster deepcluster_v2 "
        "npid local_aggregation pirl_rotation pirl_jigsaw rotation jigsaw cmc cpc"
    ).split(),
)
def test_a_short_run_is_points_ahead_of_a_random_encoder(
    name, points, changes, tmp_path
):
    given = arguments_of(name)
    short = {"epochs": 20, "warmup_epochs": 1, "knn_epochs": 0, "verbose": 0}
    hparams = given["hparams"] | changes.get("hparams", {})
    given |= short | changes | {"hparams": hparams, "out": str(tmp_path)}
    images = {}
    if name == "cmc_cifar10_small":
        given |= of_colours()
        images = {key: given[key] for key in ("data", "validation_data")}
    pretrain.pretrain(**given)
    rows = evaluate.evaluate(
        str(tmp_path), budgets=("100%",), baselines=("random_encoder",),
        probes=("knn",), verbose=0, **images,
    )  # fmt: skip
    found = {row["features"]: row["accuracy"] for row in rows if row["probe"] == "kNN"}
    ahead = 100 * (found["pre-trained"] - found["random encoder"])
    assert ahead > points, found

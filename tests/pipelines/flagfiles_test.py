"""The flagfiles against the settings that their headers name."""

import dataclasses
import math
import pathlib

import pytest
from absl import flags

from pipelines import command, task_flags
from tfssl.tasks import (
    arguments,
    classifying,
    distill,
    finetune,
    groups,
    pretrain,
    tokenizing,
    train_segmenter,
    train_tokenizer,
)

_RECIPES = pathlib.Path(__file__).parents[2] / "pipelines" / "recipes"


def flags_of(name):
    """Flags of a recipe; those that may come several times as dicts of values."""
    found, several = {}, {"encoder_arg": [], "hparam": []}
    for line in (_RECIPES / f"{name}.flags").read_text().splitlines():
        if line.startswith("--"):
            flag, _, text = line[2:].partition("=")
            if flag in several:
                several[flag].append(text)
            else:
                found[flag] = text
    return found | {k: command.pairs(texts, k) for k, texts in several.items()}


def task_of(name):
    """The task that a flagfile is for."""
    kind = name.removeprefix("smoke_").partition("_")[0]
    others = {
        "finetune": finetune.finetune,
        "distill": distill.distill,
        "segmenter": train_segmenter.train_segmenter,
        "tokenizer": train_tokenizer.train_tokenizer,
    }
    return others.get(kind, pretrain.pretrain)


def arguments_of(name):
    """What the binary would call the task with."""
    values = flags.FlagValues()
    skip = ("callbacks", "on_accept", "preprocessing", "verbose")
    # Those that smoke adds to are given by the recipe, or after it.
    read = task_flags.define(
        task_of(name), "task", skip=skip, needed=(), flag_values=values
    )
    lines = (_RECIPES / f"{name}.flags").read_text().splitlines()
    values(["task", *(line for line in lines if line.startswith("--"))])
    return read()


@pytest.mark.parametrize("name", sorted(path.stem for path in _RECIPES.glob("*.flags")))
def test_every_line_is_a_flag_of_the_binary_with_a_value_in_its_bounds(name):
    given = arguments_of(name)
    for argument in arguments.of(task_of(name)):
        if argument.name in given and given[argument.name] is not None:
            argument.check(given[argument.name])
        elif argument.required:
            assert name.startswith("smoke"), argument.name


def optimization_of(name):
    """The group of settings that makes the optimizer and its schedule."""
    given = arguments_of(name)
    kinds = {
        pretrain.pretrain: groups.Optimization,
        train_tokenizer.train_tokenizer: tokenizing.Optimization,
    }
    group = kinds.get(task_of(name), classifying.Optimization)
    names = [field.name for field in dataclasses.fields(group)]
    return group(**{key: given[key] for key in names})


def schedule_of(name, steps_per_epoch):
    """The learning rate that the binary would train this recipe with."""
    given = arguments_of(name)
    return optimization_of(name).schedule(
        given["batch_size"], given["epochs"], steps_per_epoch
    )


# Where the kernels start, and whether the last scale of a branch starts at zero.
_STARTS = {
    "simclr_imagenet": ("simclr", True),  # tf2/resnet.py.
    "simclr_cifar10": ("simclr", True),
    "simclr_v2_imagenet": ("simclr", True),
    "simclr_v2_imagenet_152x3": ("simclr", True),
    "byol_imagenet": ("simclr", False),  # The paper's runs, see byol/README.md.
    "byol_cifar10": ("torch", False),  # lightly/models/resnet.py.
    "byol_cifar10_small": ("torch", False),
    "moco_v1_imagenet": ("torchvision", False),  # models.__dict__[arch](…).
    "moco_v2_imagenet": ("torchvision", False),
    "moco_v3_imagenet": ("torchvision", True),  # zero_init_residual=True.
    "moco_cifar10": ("torchvision", False),
    "moco_cifar10_small": ("torchvision", False),
    "swav_imagenet": ("torchvision", False),  # src/resnet50.py.
    "swav_imagenet_256": ("torchvision", False),
    "swav_cifar10": ("torch", False),
    "cmc_imagenet": ("torchvision", False),  # models/resnet.py, as torchvision's.
    "cmc_stl10": ("torchvision", False),
    "dino_resnet50_imagenet": ("torchvision", False),
    "dino_cifar10": ("torchvision", False),  # solo-learn.
    "dino_cifar10_small_resnet18": ("torch", False),
    "deepcluster_v2_imagenet": ("torchvision", False),
    "deepcluster_v2_cifar10": ("torchvision", False),  # solo-learn.
    "npid_imagenet": ("torchvision", False),
    "npid_cifar10": ("torch", False),  # models/resnet_cifar.py.
    "local_aggregation_imagenet": ("torchvision", False),
    "local_aggregation_cifar10": ("torch", False),  # As NPID.
}


@pytest.mark.parametrize("name", _STARTS)
def test_encoders_start_as_the_authors(name):
    given = flags_of(name)["encoder_arg"]
    start = given.get("init", "simclr"), given.get("zero_init_residual", True)
    assert start == _STARTS[name]
    # Only SimCLR's code projects the first shortcut of a ResNet-18.
    small = "cifar10" in name and not name.startswith("simclr")
    assert given.get("projection_in_first_block", True) is not small


@pytest.mark.parametrize(
    "name, encoder, width",
    [
        ("simclr_v2_imagenet", "resnet50", 1),
        ("simclr_v2_imagenet_152x3", "resnet152", 3),
    ],
)
def test_simclr_v2_trains_as_in_its_papers_section_3(name, encoder, width):
    """LARS, 0.1 * sqrt(4096), 5 % of 800 epochs of warm-up, three layers, a memory."""
    given = arguments_of(name)
    assert (given["method"], given["recipe"]) == ("simclr", "simclr")
    assert given["hparams"] == {
        "temperature": 0.1,
        "projection_layers": 3,
        "queue_size": 65_536,
        "momentum": 0.999,
    }
    assert (given["optimizer"], given["weight_decay"]) == ("lars", 1e-4)
    assert (given["batch_size"], given["epochs"], given["encoder"]) == (
        4096, 800, encoder
    )  # fmt: skip
    chosen = given["encoder_args"]
    assert chosen["selective_kernels"] is True and chosen.get("width", 1) == width
    assert chosen["norm_statistics"] == "global"
    schedule = schedule_of(name, 312)
    for step, rate in ((0, 0.0), (20 * 312, 3.2), (40 * 312, 6.4), (420 * 312, 3.2)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-4)


def test_byol_on_cifar10_takes_the_steps_of_lightlys_benchmark():
    """0.06 per 128 images on a quarter of the loss, weight decay 5e-4."""
    for name, batch_size in (("byol_cifar10", 512), ("byol_cifar10_small", 256)):
        given, theirs = flags_of(name), 0.06 * batch_size / 128
        schedule = schedule_of(name, 7)
        for epoch in (0, 3, 9):  # CosineAnnealingLR(optim, max_epochs), by epochs.
            rate = theirs * (1 + math.cos(math.pi * epoch / int(given["epochs"]))) / 2
            for step in (7 * epoch, 7 * epoch + 6):
                assert 4 * float(schedule(step)) == pytest.approx(rate, rel=1e-5)
        assert float(given["weight_decay"]) == pytest.approx(4 * 5e-4)
        assert given["hparam"] == {
            "momentum": 0.99, "total_steps": None, "projection_hidden": 1024,
        }  # fmt: skip


@pytest.mark.parametrize(
    "name, peak", [("moco_v2_imagenet", 0.03), ("moco_cifar10", 0.06)]
)
def test_mocos_cosine_falls_by_epochs(name, peak):
    epochs, schedule = int(flags_of(name)["epochs"]), schedule_of(name, 11)
    for epoch in (0, 1, epochs // 2, epochs - 1):
        rate = peak * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for step in (11 * epoch, 11 * epoch + 10):
            assert float(schedule(step)) == pytest.approx(rate, abs=1e-7)


def test_cmc_on_imagenet_is_train_cmcs():
    """Batch 128, 0.03, a tenth after 120, 160 and 200 of 240 epochs, a bank of NCE."""
    given = arguments_of("cmc_imagenet")
    assert (given["batch_size"], given["epochs"]) == (128, 240)
    assert (given["optimizer"], given["weight_decay"]) == ("sgd", 1e-4)
    assert given["hparams"] == {
        "loss": "nce", "negatives": 4096, "temperature": 0.07, "bank_momentum": 0.5,
    }  # fmt: skip
    assert (given["encoder"], given["encoder_args"]["width"]) == ("branches", 0.5)
    schedule = schedule_of("cmc_imagenet", 10)
    for epoch, rate in ((119, 0.03), (120, 3e-3), (160, 3e-4), (200, 3e-5)):
        assert float(schedule(10 * epoch)) == pytest.approx(rate)


def test_rotation_of_revnet50_is_the_authors():
    """config/rotation/imagenet.sh of google/revisiting-self-supervised."""
    given = arguments_of("rotation_revnet50_imagenet")
    assert (given["encoder"], given["encoder_args"]) == ("revnet50", {"width": 4})
    assert (given["optimizer"], given["weight_decay"]) == ("sgd", 1e-4)
    schedule = schedule_of("rotation_revnet50_imagenet", 10)
    for epoch, rate in ((5, 0.2), (14, 0.2), (15, 0.02), (25, 0.002)):
        assert float(schedule(10 * epoch)) == pytest.approx(rate)
    spared = given["optimizer_args"]["exclude_from_decay"]
    assert spared == ("bias", "gamma", "beta")  # There kernels alone have a penalty.


@pytest.mark.parametrize(
    "name, batch_size, spared, rates",
    [
        # _base_/datasets/imagenet_rotation-pred.py: 8 times 16 images, in four turns.
        ("rotation_imagenet", 128, None, {0: 0.02, 5: 0.2, 30: 0.02, 50: 0.002}),
        # jigsaw_resnet.yaml of vissl: `regularize_bn: False, regularize_bias: True`.
        (
            "jigsaw_imagenet",
            256,
            ("gamma", "beta"),
            {0: 0.025, 5: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 90: 1e-4, 100: 1e-5},
        ),
        (
            "local_aggregation_imagenet",
            128,
            None,
            {0: 0.03, 159: 0.03, 160: 3e-3, 187: 3e-4},
        ),
    ],
)
def test_rates_and_decay_of_other_authors_settings(name, batch_size, spared, rates):
    given = arguments_of(name)
    assert (given["batch_size"], given["weight_decay"]) == (batch_size, 1e-4)
    assert (given["optimizer_args"] or {}).get("exclude_from_decay") == spared
    schedule = schedule_of(name, 10)
    for epoch, rate in rates.items():
        assert float(schedule(10 * epoch)) == pytest.approx(rate)


@pytest.mark.parametrize("transform", ["jigsaw", "rotation"])
def test_pirl_on_cifar10_is_trained_as_moco(transform):
    given, mocos = (
        arguments_of(f"pirl_{transform}_cifar10"),
        arguments_of("moco_cifar10"),
    )
    for name in ("epochs", "batch_size", "optimizer", "weight_decay"):
        assert given[name] == mocos[name]
    found, expected = (
        schedule_of(name, 10) for name in (f"pirl_{transform}_cifar10", "moco_cifar10")
    )
    for step in (0, 5, 17, 4000, 7999):
        assert float(found(step)) == float(expected(step))


def test_mocos_demo_has_one_linear_head():
    given = flags_of("moco_cifar10")
    assert given["hparam"]["projection_layers"] == 1
    assert given["encoder_arg"]["norm_group_size"] == 64


def test_swav_and_deepcluster_v2_at_4096_have_groups_of_512_images():
    for name in ("swav_imagenet", "deepcluster_v2_imagenet"):
        given = flags_of(name)
        assert given["encoder_arg"]["norm_statistics"] == "global"
        for of in ("encoder_arg", "hparam"):
            assert int(given["batch_size"]) / given[of]["norm_replica_groups"] == 512


def test_byol_on_imagenet_pads_as_haiku():
    assert flags_of("byol_imagenet")["encoder_arg"]["padding"] == "same"


@pytest.mark.parametrize(
    "name, optimizer, batch_size, epochs, peak, head_layer",
    [
        ("finetune_simclr_imagenet_1pct", "sgd", 4096, 60, 0.8, 0),
        ("finetune_simclr_imagenet_10pct", "sgd", 4096, 30, 0.8, 0),
        ("finetune_simclr_v2_imagenet_1pct", "lars", 1024, 60, 0.16, 1),
        ("finetune_simclr_v2_imagenet_10pct", "lars", 1024, 30, 0.16, 1),
        ("finetune_byol_imagenet_1pct", "sgd", 1024, 50, 0.02, 0),
    ],
)
def test_the_papers_fine_tuning(name, optimizer, batch_size, epochs, peak, head_layer):
    """No warm-up, no weight decay, all of the network, a crop and a mirror image."""
    given = arguments_of(name)
    assert given["optimizer"] == optimizer
    if optimizer == "sgd":
        assert given["optimizer_args"] == {"nesterov": True}
    assert (given["batch_size"], given["epochs"]) == (batch_size, epochs)
    assert (given["weight_decay"], given["warmup_epochs"]) == (0, 0)
    assert (given["head_layer"], given["freeze"]) == (head_layer, "none")
    assert given["recipe"] is None and given["label_smoothing"] == 0
    schedule = schedule_of(name, 12)  # 12,811 images, 1,024 a step.
    for step, rate in ((0, peak), (6 * epochs, peak / 2), (12 * epochs, 0)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize(
    "name, temperature",
    [("distill_simclr_v2_imagenet", 1.0), ("distill_simclr_v2_imagenet_self", 0.1)],
)
def test_simclr_v2s_distillation_is_its_papers(name, temperature):
    """LARS, 0.1 * sqrt(4096), 400 epochs, decay 1e-4, images without labels."""
    given = arguments_of(name)
    assert given["temperature"] == temperature and given["label_weight"] == 0
    assert (given["optimizer"], given["weight_decay"]) == ("lars", 1e-4)
    assert (given["batch_size"], given["epochs"]) == (4096, 400)
    assert (given["student"] is None) is name.endswith("self")
    schedule = schedule_of(name, 312)
    for step, rate in ((20 * 312, 6.4), (210 * 312, 3.2), (400 * 312, 0)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-4)


def test_a_linear_layer_first_then_all():
    """The second command begins with what the first one leaves."""
    first = arguments_of("finetune_linear_first")
    then = arguments_of("finetune_after_linear")
    assert (first["freeze"], then["freeze"]) == ("all", "none")
    assert then["init_from"] == first["out"]
    for key in ("encoder", "data", "split", "head_layer"):
        assert first[key] == then[key]
    assert float(schedule_of("finetune_linear_first", 31)(0)) == pytest.approx(1.6)


def test_the_augmented_recipe_is_maes():
    """FINETUNE.md of facebookresearch/mae, ViT-B, and main_finetune.py's defaults."""
    given = arguments_of("finetune_augmented_imagenet")
    assert (given["mixup"], given["cutmix"], given["label_smoothing"]) == (0.8, 1, 0.1)
    assert (given["rand_augment"], given["rand_augment_magnitude"]) == (2, 9)
    assert (given["layer_decay"], given["weight_decay"]) == (0.65, 0.05)
    assert given["erase"] == 0.25
    schedule = schedule_of("finetune_augmented_imagenet", 1251)
    assert float(schedule(5 * 1251)) == pytest.approx(2e-3)


@pytest.mark.parametrize("name", sorted(path.stem for path in _RECIPES.glob("*.flags")))
def test_folders_are_classes_of_folders_only(name):
    given = flags_of(name)
    if given.get("labels") == "folders":
        assert ":" not in given["data"] and given["data"] not in ("digits", "scenes")


@pytest.mark.parametrize(
    "first, then, flag",
    [
        ("simclr_imagenet", "finetune_simclr_imagenet_1pct", "encoder"),
        ("byol_imagenet", "finetune_byol_imagenet_1pct", "encoder"),
        ("simclr_imagenet", "finetune_augmented_imagenet", "encoder"),
        ("simclr_digits", "finetune_digits", "encoder"),
        ("finetune_digits", "distill_digits", "teacher"),
        ("simclr_cifar10_small", "finetune_cifar10_small", "encoder"),
        ("beit_cifar10_small", "finetune_beit_cifar10_small", "encoder"),
        ("tokenizer_cifar10_small", "beit_cifar10_small", "teacher"),
        ("finetune_cifar10_small", "distill_cifar10_small", "teacher"),
        ("finetune_simclr_v2_imagenet_1pct", "distill_simclr_v2_imagenet", "teacher"),
    ],
)
def test_a_stage_begins_with_the_one_before(first, then, flag):
    before, after = arguments_of(first), arguments_of(then)
    assert after[flag] == before["out"]
    if (
        first != "finetune_simclr_v2_imagenet_1pct"
    ):  # Its teacher has 1 % of the images.
        assert after["data"].partition("_subset")[0] == before["data"]
        assert after["validation_fraction"] == before["validation_fraction"]
    if after["validation_fraction"]:
        # Another part would be held out with other classes, or without.
        assert holds_out_by(then, after) == holds_out_by(first, before)


def holds_out_by(name, given):
    """Where the classes come from that a recipe's hold-out of a folder balances."""
    takes_classes = name.startswith(("finetune", "distill"))
    found = given.get("labels", "auto")
    labels = "folders" if takes_classes and found == "auto" else found
    return labels, given.get("seed", 0)

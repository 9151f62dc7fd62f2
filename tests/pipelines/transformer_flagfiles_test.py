"""The flagfiles of transformers and of tokenizers against their authors' code."""

import re

import pytest

from tests.pipelines.flagfiles_test import _RECIPES, arguments_of, schedule_of
from tfssl import models


@pytest.mark.parametrize(
    "name, batch_size, epochs, peak, optimizer, decay",
    [
        ("dino_vit_small_16_imagenet", 1024, 300, 2e-3, "adamw", (0.04, 0.4)),
        ("dino_resnet50_imagenet", 512, 100, 0.06, "sgd", (1e-4, None)),
    ],
)
def test_dino_on_imagenet_is_main_dinos(
    name, batch_size, epochs, peak, optimizer, decay
):
    """Ten epochs of warm-up, a cosine to 1e-6; biases and norms do not decay."""
    given = arguments_of(name)
    assert (given["batch_size"], given["epochs"]) == (batch_size, epochs)
    assert given["optimizer"] == optimizer
    assert (given["weight_decay"], given["weight_decay_final"]) == decay
    assert given["optimizer_args"]["clipnorm"] == 3
    assert given["optimizer_args"]["exclude_from_decay"] == ("bias", "gamma", "beta")
    assert given["hparams"]["momentum"] == 0.996
    assert given["hparams"]["num_outputs"] == 65_536
    schedule = schedule_of(name, 10)
    for epoch, rate in ((0, 0.0), (5, peak / 2), (10, peak), (epochs, 1e-6)):
        assert float(schedule(10 * epoch)) == pytest.approx(rate, rel=1e-2, abs=1e-9)


@pytest.mark.parametrize(
    "name, batch_size, peak, heads",
    [
        ("moco_v3_vit_small_16_imagenet", 1024, 6e-4, 12),
        ("moco_v3_vit_base_16_imagenet", 4096, 2.4e-3, None),
    ],
)
def test_moco_v3_of_vits_is_main_mocos(name, batch_size, peak, heads):
    """AdamW, 1.5e-4 * batch / 256, decay 0.1, 300 epochs, 40 of warm-up."""
    given = arguments_of(name)
    assert (given["optimizer"], given["weight_decay"]) == ("adamw", 0.1)
    assert (given["batch_size"], given["recipe"]) == (batch_size, "moco_v3_vit")
    assert given["hparams"] == {
        "version": 3, "temperature": 0.2, "projection_layers": 3,
        "predictor_last_norm": True,
    }  # fmt: skip
    chosen = given["encoder_args"]
    assert chosen.get("heads") == heads
    assert chosen["freeze_patches"] is True and chosen["positions"] == "sincos"
    schedule = schedule_of(name, 10)
    for epoch, rate in ((20, peak / 2), (40, peak), (170, peak / 2), (300, 0.0)):
        assert float(schedule(10 * epoch)) == pytest.approx(rate, abs=1e-9)
    assert given["watch_gradients"] is True


def test_deit_from_scratch_is_mains():
    """5e-4 per 512 images down to a hundredth, and all that regularises."""
    given = arguments_of("finetune_deit_base_16_imagenet")
    assert (given["encoder"], given["encoder_args"]) == (
        "vit_base_16",
        {"drop_path": 0.1},
    )
    assert (given["mixup"], given["cutmix"], given["label_smoothing"]) == (0.8, 1, 0.1)
    assert (given["rand_augment"], given["rand_augment_magnitude"]) == (2, 9)
    assert (given["erase"], given["repeats"], given["averaging"]) == (0.25, 3, 0.99996)
    assert (given["epochs"], given["weight_decay"]) == (300, 0.05)
    assert given["batch_size"] % 6 == 0  # Pairs of images, each three times.
    spared = given["optimizer_args"]["exclude_from_decay"]
    network = models.encoder("vit_tiny_4", input_shape=(8, 8, 3), depth=1)
    assert {v.path.split("/")[-1] for v in network.variables} == {"kernel", *spared}
    schedule = schedule_of("finetune_deit_base_16_imagenet", 100)
    peak = 5e-4 * given["batch_size"] / 512
    for epoch, rate in ((0, 1e-3 * peak), (5, peak), (300, 0.01 * peak)):
        assert float(schedule(100 * epoch)) == pytest.approx(rate)


def test_deit_with_its_distillation_token_is_mains():
    """All that DeiT from scratch has; half of the loss is by the teacher's choice."""
    given = arguments_of("distill_deit_small_16_imagenet")
    plain = arguments_of("finetune_deit_base_16_imagenet")
    assert (given["hard_labels"], given["label_weight"]) == (True, 0.5)
    assert given["student"] == "vit_small_16"
    network = plain["encoder_args"] | {"distillation_token": True}
    assert given["encoder_args"] == network
    spared = plain["optimizer_args"]["exclude_from_decay"]
    excluded = given["optimizer_args"].pop("exclude_from_decay")
    assert set(excluded) == {*spared, "distillation_token"}
    own = {"optimizer_args", "encoder_args", "validation_data", "out"}
    for key in (given.keys() & plain.keys()) - own:
        assert given[key] == plain[key], key


def test_the_tokenizer_of_imagenet_is_dall_es():
    given = arguments_of("tokenizer_imagenet")
    steps_per_epoch = 1_281_167 // 512
    assert given["temperature_epochs"] * steps_per_epoch == pytest.approx(150e3, 1e-2)
    assert given["kl_epochs"] * steps_per_epoch == pytest.approx(5e3, 1e-2)
    assert given["epochs"] * steps_per_epoch == pytest.approx(3e6, 1e-2)
    assert (given["temperature"], given["kl_weight"]) == (1 / 16, 6.6)
    network = ("vocabulary", "downsampling", "width", "blocks", "decoder_width")
    assert [given[name] for name in network] == [8192, 8, 256, 2, 128]
    schedule = schedule_of("tokenizer_imagenet", steps_per_epoch)
    assert float(schedule(0)) == pytest.approx(1e-4)
    assert float(schedule(10**9)) == pytest.approx(1.25e-6)


def test_the_tokenizer_of_small_images_has_the_grid_of_their_transformer():
    given = arguments_of("tokenizer_cifar10_small")
    assert given["downsampling"] == 4  # As the patches of vit_tiny_4.


@pytest.mark.parametrize(
    "size, layer_scale, clip", [("base", 0.1, 3.0), ("large", 1e-5, 1.0)]
)
def test_beit_on_imagenet_is_run_beit_pretrainings(size, layer_scale, clip):
    """AdamW, 1.5e-3 at 2,048 images, decay 0.05, 800 epochs, 10 of warm-up."""
    name = f"beit_vit_{size}_16_imagenet"
    given = arguments_of(name)
    assert (given["batch_size"], given["weight_decay"]) == (2048, 0.05)
    assert given["optimizer_args"]["global_clipnorm"] == clip
    # 75 of 196 patches, and no more.
    assert round(given["hparams"]["mask_ratio"] * 196) == 75
    assert given["hparams"]["mask_form"] == "released"
    assert given["encoder_args"] == {
        "drop_path": 0.1, "positions": "none", "relative": "shared", "init": "beit",
        "pooling": "mean", "layer_scale": layer_scale,
    }  # fmt: skip
    schedule = schedule_of(name, 10)
    for epoch, rate in ((5, 7.5e-4), (10, 1.5e-3), (405, 7.55e-4), (800, 1e-5)):
        assert float(schedule(10 * epoch)) == pytest.approx(rate, rel=1e-3)
    assert_tables_and_kernels_decay(given)


@pytest.mark.parametrize(
    "name, batch_size, epochs, peak, last, decay, layer_decay, warmup, mixed",
    [
        ("imagenet", 1024, 100, 4e-3, 1e-6, 0.05, 0.65, 20, (0.8, 1)),
        ("imagenet22k", 4096, 90, 3e-3, 1e-6, 0.05, 0.65, 5, (0, 0)),
        ("imagenet_after_22k", 512, 30, 2e-5, 1e-6, 1e-8, 0.85, 5, (0, 0)),
    ],
)
def test_fine_tuning_of_beit_is_run_class_finetunings(
    name, batch_size, epochs, peak, last, decay, layer_decay, warmup, mixed
):
    name = f"finetune_beit_vit_base_16_{name}"
    given = arguments_of(name)
    assert (given["batch_size"], given["epochs"]) == (batch_size, epochs)
    assert (given["weight_decay"], given["layer_decay"]) == (decay, layer_decay)
    assert (given["mixup"], given["cutmix"]) == mixed
    assert (given["label_smoothing"], given["erase"]) == (0.1, 0.25)
    schedule = schedule_of(name, 100)
    for epoch, rate in ((0, 0.0), (warmup, peak), (epochs, last)):
        assert float(schedule(100 * epoch)) == pytest.approx(rate, rel=2e-2)
    assert_tables_and_kernels_decay(given)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_imagenet",
        "beit_cifar10",
        "beit_vit_base_16_imagenet",
        "beit_vit_large_16_imagenet",
        "finetune_beit_vit_base_16_imagenet",
        "finetune_beit_vit_base_16_imagenet22k",
        "finetune_beit_vit_base_16_imagenet_384",
        "finetune_beit_vit_base_16_imagenet_after_22k",
        "dino_vit_small_16_imagenet",
        "moco_v3_vit_small_16_imagenet",
        "moco_v3_vit_base_16_imagenet",
        "finetune_deit_base_16_imagenet",
        "finetune_deit_base_16_cifar100",
        "distill_deit_small_16_imagenet",
        "finetune_augmented_imagenet",
    ],
)
def test_adams_epsilon_is_the_authors_and_not_keras(name):
    assert arguments_of(name)["optimizer_args"]["epsilon"] == 1e-8


def test_the_rate_of_beits_larger_transformer_ends_as_that_of_the_smaller():
    header = (_RECIPES / "finetune_beit_vit_base_16_imagenet22k.flags").read_text()
    rate, final = (
        float(re.search(f"{flag}=([0-9.e-]+)", header)[1])
        for flag in ("--learning_rate", "--lr_final")
    )
    assert rate * final == pytest.approx(1e-6, rel=1e-2)


def assert_tables_and_kernels_decay(given):
    """Variables of BEiT's network with one axis do not, nor does the class token."""
    network = models.encoder(
        "vit_tiny_4",
        input_shape=(8, 8, 3),
        depth=1,
        **arguments_of("beit_vit_base_16_imagenet")["encoder_args"],
    )
    spared = given["optimizer_args"]["exclude_from_decay"]
    for variable in network.variables:
        kind = variable.path.split("/")[-1]
        alone = kind == "class_token" or len(variable.shape) == 1
        assert (kind in spared) == alone, variable.path


def test_beit_goes_on_from_run_to_run():
    """Each command of a chain begins with what the one before it leaves."""
    chain = ("beit_{}", "finetune_beit_{}", "finetune_beit_{}_384")
    by_22k = ("beit_{}", "finetune_beit_{}22k", "finetune_beit_{}_after_22k")
    for names in (chain, by_22k):
        made = [arguments_of(n.format("vit_base_16_imagenet")) for n in names]
        for before, after in zip(made, made[1:]):
            assert after["encoder"] == before["out"]
        assert made[1]["encoder_args"]["relative"] == "blocks"
    larger = arguments_of("finetune_beit_vit_base_16_imagenet_384")
    assert larger["init_from"] == larger["encoder"]  # The classifier, too.
    small = arguments_of("finetune_beit_cifar10_small")
    assert small["encoder"] == arguments_of("beit_cifar10_small")["out"]
    assert small["budget"] == "10%" and small["baseline"] is True

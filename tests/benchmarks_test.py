"""The scripts that print speeds and accuracies: their parts, and that they run."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import (
    evaluation,
    kmeans,
    remat,
    schedule,
    step_timing,
    train_beside_lightly,
    train_step,
    views_in_two_places,
    views_on_device,
)
from tfssl import methods
from tfssl.data import pipeline, sources
from tfssl.data.views import recipes


def images(count, seed=0):
    """Noise, uint8 `(count, 32, 32, 3)`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folders of classes, with twelve JPEG files each."""
    root = tmp_path_factory.mktemp("images")
    for number, image in enumerate(images(24)):
        place = root / ("cat", "dog")[number % 2] / f"{number // 2}.jpg"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(place)
    return root


@pytest.fixture
def floats():
    """A source of encoded images, as floats."""
    files = [tf.io.encode_png(image).numpy() for image in images(4)]
    given = dict(channels=3, dtype="uint8", labels=None, class_names=None)
    source = sources.BytesSource(files, name="noise", **given)
    return views_in_two_places.AsFloats(source)


def test_images_as_floats_stay_so_in_a_pipeline(floats):
    recipe = recipes.get("simclr_cifar10").scaled(16, mean=None, std=None)
    batches = pipeline.multiview(floats, recipe, batch_size=4, augment_on="device")
    (batch,) = batches.take(1)
    assert batch["views"]["view_0"].dtype == tf.float32
    assert isinstance(floats.ready(), views_in_two_places.AsFloats)


def test_images_as_floats_are_those_of_the_source(floats):
    decoded = floats.decode(floats.read(tf.constant(1)))
    np.testing.assert_allclose(decoded, images(4)[1] / 255, rtol=1e-6)


_ON_CPU = {"gpu": False, "device": "CPU"}
_ON_GPU = {"gpu": True, "device": "a card"}


@pytest.mark.parametrize(
    "hellos, gpu",
    [([_ON_CPU, _ON_CPU], False), ([_ON_GPU, _ON_GPU], True), ([None, _ON_GPU], True)],
)
def test_halves_on_one_kind_of_device_are_compared(hellos, gpu):
    assert train_step.on_gpu(hellos) == gpu


def test_halves_on_two_kinds_of_devices_are_refused():
    with pytest.raises(SystemExit, match="computes on a card and the other on CPU"):
        train_step.on_gpu([_ON_GPU, _ON_CPU])


def test_a_half_that_hangs_is_stopped():
    command = f"{sys.executable} -c 'import time; time.sleep(100)'"
    half = train_step.Worker("tfssl", command, argparse.Namespace(limit=0.2))
    with pytest.raises(RuntimeError, match="tfssl was stopped after 0.2 s"):
        half.answer()
    half.end()


class Half:
    """Stands for a `train_step.Worker`; keeps what it is asked."""

    def __init__(self, framework, asked):
        self.framework, self._asked = framework, asked

    def ask(self, do, *arguments):
        self._asked.append(f"{self.framework} {do}")
        one = {"first": 0.0, "weights": 1}
        block = {"seconds": 0.1, "processor": 0.1}
        return {"start": one, "block": block, "end": {"loss": 0.0, "peak": 0.0}}[do]


def test_one_half_is_ready_before_the_other_starts():
    asked, options = [], argparse.Namespace(blocks=2, batch=4)
    turns = [(Half("a", asked), "jit"), (Half("b", asked), "compile")]
    train_step.measured(step_timing.Case("simclr"), turns, options)
    order = ["start", "block", "block", "end"]
    assert asked == [f"{name} {do}" for do in order for name in "ab"]


def test_cases_of_either_benchmark_end_with_the_time(capsys):
    options = argparse.Namespace(cases=["tiny:32"], until=-1.0)
    train_step.run_cases(options, lambda *_: pytest.fail("It was started."))
    assert "tiny:32 SKIPPED" in capsys.readouterr().out


@pytest.mark.parametrize("given, before", [(None, ""), ("--a=1", "--a=1 ")])
def test_plans_of_xla_are_asked_for_beside_other_flags(given, before, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given:
        monkeypatch.setenv("XLA_FLAGS", given)
    found = remat.environment(True, "plans")
    dump = "--xla_dump_to=plans --xla_dump_hlo_as_text"
    assert found["XLA_FLAGS"] == before + dump
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a card"])
    assert remat.environment(True, "plans").get("XLA_FLAGS") == given


@pytest.mark.parametrize("link", [os.link, None])
def test_files_of_class_folders_are_linked(link, folder, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", link or refused)
    place = views_on_device.linked(folder, 2, tmp_path)
    assert views_on_device.opened(str(place)).num_images == 48


@pytest.mark.parametrize(
    "case, said",
    [
        ("finish:simclr", None),
        ("fit:byol_cifar10:all", None),
        ("fit:moco_v2:host", "expected a recipe of simclr, byol, swav to train by"),
        ("fit:simclr:here", "expected one of host, device, all after the recipe"),
        ("fit:simclr", "expected one of host, device, all after the recipe"),
        ("finish:simcl", "expected one of the recipes"),
        ("start:simclr", "expected a case that begins with finish, input, fit"),
    ],
)
def test_cases_of_views_are_checked_before_the_first_starts(case, said):
    found = views_on_device.mistake(case, data="photos/")
    assert said in found if said else found is None


def test_images_that_a_case_of_views_needs_are_asked_for():
    assert "as --data" in views_on_device.mistake("input:simclr:host", data=None)


@pytest.mark.parametrize("recipe, stem", [("byol", 7), ("byol_cifar10", 3)])
def test_method_and_stem_are_those_of_the_recipe(recipe, stem):
    options = argparse.Namespace(depth=18, width=0.0625, stem=None)
    method = views_on_device.make_method(recipes.get(recipe).scaled(32), options)
    assert isinstance(method, methods.BYOL)
    kernel = method.encoder.trainable_variables[0]
    assert kernel.shape[0] == stem


def test_the_first_run_of_an_evaluation_is_not_timed(monkeypatch):
    runs, shown = iter([9, 1, 2, 3]), []
    make = lambda *_: lambda: shown.append(next(runs)) or str  # noqa: E731
    monkeypatch.setitem(evaluation._MAKE, "knn", make)
    line = evaluation._measure("knn:8", argparse.Namespace(repeat=3))
    assert shown == [9, 1, 2, 3] and re.search(r"first \d", line)


def test_k_means_are_compared_without_faiss_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert importlib.reload(kmeans).faiss is None


def test_commands_that_run_at_once_share_a_gpu(monkeypatch):
    name = "TF_FORCE_GPU_ALLOW_GROWTH"
    monkeypatch.delenv(name, raising=False)
    assert name not in schedule.environment(1)
    assert schedule.environment(2)[name] == "true"
    monkeypatch.setenv(name, "false")
    assert schedule.environment(2)[name] == "false"


def test_lightly_trains_as_the_run_did():
    settings = dict(
        batch_size=512, learning_rate=1.0, lr_scaling="linear", weight_decay=1e-4,
        encoder="resnet18", encoder_args={"stem": "cifar"}, epochs=6, warmup_epochs=2,
        precision="mixed_bfloat16", optimizer="lars", recipe="simclr_cifar10",
        hparams={"temperature": 0.5, "projection_hidden": 64},
    )  # fmt: skip
    record = {"settings": settings, "made": {"views": [{"size": 32}] * 2}}
    assert set(train_beside_lightly.peer_flags(record)) == {
        "--learning_rate=2.0",
        "--size=32",
        "--depth=18",
        "--width=1.0",
        "--stem=cifar",
        "--precision=bfloat16",
        "--temperature=0.5",
        "--projection_hidden=64",
        "--recipe=simclr_cifar10",
        "--epochs=6",
        "--batch_size=512",
        "--optimizer=lars",
        "--weight_decay=0.0001",
        "--warmup_epochs=2",
    }


@pytest.mark.parametrize("recipe", ["simclr_cifar10_small", "simclr_cifar10"])
def test_what_lightly_cannot_follow_is_refused(recipe):
    flags = schedule.recipe(recipe)
    assert train_beside_lightly.mistake(flags) is None
    said = train_beside_lightly.mistake([*flags, "--optimizer=adamw"])
    assert said.startswith("--optimizer=adamw received") and "sgd, lars" in said
    assert "--method=byol" in train_beside_lightly.mistake([*flags, "--method=byol"])
    for flag in (
        "--precision=mixed_bfloat16", "--encoder=resnet50", "--lr_schedule=cosine",
        "--encoder_arg=width=0.5", "--hparam=temperature=0.2", "--knn_epochs=0",
        "--image_size=32", "--warmup_epochs=0", "--noresume",
    ):  # fmt: skip
        assert train_beside_lightly.mistake([*flags, flag]) is None
    for flag in (
        "--precision=mixed_float16", "--encoder=vit_tiny", "--encoder=resnet152",
        "--recipe=swav", "--lr_schedule=steps", "--lr_start=0.3", "--lr_final=0.001",
        "--optimizer_arg=momentum=0.8", "--weight_decay_final=0.1", "--noaugment",
        "--hparam=queue_size=64", "--encoder_arg=norm='group'", "--init_from=a_run",
    ):  # fmt: skip
        said = train_beside_lightly.mistake([*flags, flag])
        assert said and said.startswith(f"{flag} received"), flag


# Stands for a peer: writes features of its own, as `lightly_folder.run` does.
_PEER = """
import argparse, json, numpy as np
parser = argparse.ArgumentParser()
for name in ("script", "--split", "--out"):
    parser.add_argument(name)
options, _ = parser.parse_known_args()
split = json.load(open(options.split))
rng = np.random.default_rng(0)
np.savez(options.out, **{k: rng.normal(size=(len(v), 4)) for k, v in split.items()})
"""
_NETWORK = "--depth=18 --width=0.0625 --size=16"
_STEP = f"{_NETWORK} --batch=2 --stem=cifar --warm=1 --blocks=1 --steps=1"
_TRAINED = "--flag=--epochs=2 --flag=--batch_size=4 --flag=--encoder_arg=width=0.0625"
_TOY = {
    "color_difference": "--data={folder} --size=16 --max_images=2",
    "dino_beside_lightly": "--data={folder} --out={out} --peer={peer}",
    "evaluation": f"{_NETWORK} --rows=200 --queries=20 --images=4 --batch=2 "
    "--classes=4 --clusters=4 --epochs=1 --repeat=1 extract:float32 knn:8 kmeans:8 "
    "pca:8 dense:8 mlp:8 linear:8",
    "few_labels": "--data={folder} --out={out} --shares=10% --until=0",
    "input_pipeline": "--size=16 --max_images=16 --batch_size=4 --rounds=1 "
    "--seconds=0.1 --recipe=simclr_cifar10 --data={folder} --augment_on=device",
    "kmeans": "--rows=200 --dim=8 --clusters=4 --iterations=2 --rounds=1 --plus_plus",
    "large_images": "--data={folder} --rounds=1 --kept 1",
    "linear_probe": "--width=0.0625 --size=16 --batch=8 --steps=4 --rounds=1 "
    "--rates 1 2",
    "memory_bank": "--images 32 64 --dim=8 --batch=4 --negatives=8 --steps=2",
    "patches": "--encoder=resnet18 --image=48 --patch=16 --stride=8 --view=16 "
    "--batch=1 --steps=1",
    "random_encoder": "--width=0.0625 --size=16 --data={folder} --train=4 --test=2",
    "remat": "--encoder=resnet18 --encoder_arg=width=0.0625 --size=32 --batch=2 "
    "--steps=1",
    "small_recipes": "--data={folder} --out={out} --only=simclr "
    f"{_TRAINED} --flag=--validation_fraction=0.25",
    "step_operations": "--depth=18 --size=16 --most=2",
    "step_tfssl": f"deepcluster:float32:sgd --modes graph {_STEP}",
    "stored_small": "--data={folder} --max_side=16 --size=16 --batch_size=4 --rounds=1 "
    "--seconds=0.1",
    "train_beside_lightly": "--data={folder} --out={out} --peer={peer} " + _TRAINED,
    "train_step": f"simclr:float32:sgd --modes graph bare+graph {_STEP}",
    "views_in_two_places": "simclr_cifar10 --data={folder} --max_images=4 "
    "--batch_size=4",
    "views_on_device": "--data={folder} --copies=2 --batch=4 --size=16 --per=1 "
    "--warm=1 --blocks=1 input:simclr_cifar10:host finish:simclr_cifar10:ops",
    "vit_step": "tiny:16:float32 --batch=1 --warm=1 --blocks=1 --steps=1 --modes graph",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", _TOY)
def test_script_runs(script, folder, tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(_PEER)
    given = dict(folder=folder, out=tmp_path, peer=f"'{sys.executable} {peer}'")
    arguments = shlex.split(_TOY[script].format(**given))
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", *arguments],
        cwd=schedule.ROOT,
        capture_output=True,
        text=True,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-3000:]
    assert not re.search("FAILED|Error", done.stdout), told[-3000:]

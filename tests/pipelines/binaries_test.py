"""The binaries as a user starts them: processes, flags, files, exit codes."""

import glob
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import classifiers, smoke
from tfssl import data, formats, models
from tfssl.formats import keras_file
from tfssl.tasks import predict

_FLAGFILES = sorted(glob.glob(os.path.join(smoke.RECIPES, "*.flags")))
SMOKE = os.path.join(smoke.RECIPES, "smoke.flags")
# Recipes of other binaries than pretrain.
_OF_LABELS, _OF_TOKENS, _OF_PIXELS = (
    ("finetune_", "distill_"),
    "tokenizer_",
    "segmenter_",
)
RECIPES = [
    path
    for path in _FLAGFILES
    if not os.path.basename(path).startswith(
        (*_OF_LABELS, _OF_TOKENS, _OF_PIXELS, "smoke")
    )
]


def _name(path):
    return os.path.basename(path).removesuffix(".flags")


def binary(name, *flags):
    command = [sys.executable, "-m", f"pipelines.{name}", *flags]
    return processes.Worker(command, os.environ).wait()


def write_images(folder, n=24, size=20):
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / ("dark" if i % 2 else "light") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (size, size, 3)) + 160 * (i % 2 == 0)
        path.write_bytes(tf.io.encode_jpeg(pixels.astype(np.uint8)).numpy())


# In one process: every flag of every recipe is known, and its method takes its
# arguments and as many views as its recipe makes.
_PARSE = """
import sys
import keras
from absl import flags
from pipelines import command, pretrain
from tfssl import data, methods, models, optimizers
from tfssl.tasks import resolve
built, taken, small = set(), set(), {}
for path in sys.argv[1:]:
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    values = flags.FLAGS(["pretrain", f"--flagfile={path}"]) and flags.FLAGS
    hparams = command.pairs(values.hparam, "hparam")
    resolve.recipe(values.recipe, values.method, hparams)
    kind, side, more = "alexnet", 16, dict(stem="cifar")
    if values.encoder in ("branches", "patches"):
        kind = values.encoder
    if kind == "patches":
        side, more = 32, dict(patch=8, stride=6)
    elif kind == "branches":
        side, more = 8, {}
    if values.method == "beit":
        side, network = 8, models.vit(8, depth=1, patch=4, input_shape=(8, 8, 3))
        teacher = models.Tokenizer(
            vocabulary=4, downsampling=2, width=4, blocks=1, decoder_width=4)
    else:
        if kind not in small:
            small[kind] = models.encoder(
                kind, input_shape=(side, side, 3), width=1 / 16, **more)
        teacher = network = small[kind]
    arguments = values.method, kind, str(hparams)
    if arguments not in taken:
        taken.add(arguments)
        teacher = methods.Frozen(teacher, data.Preprocessing(size=side))
        resolve.method(values.method, network, hparams, total_steps=10,
                       steps_per_epoch=5, num_images=50_000, seed=0, teacher=teacher)
    with keras.StatelessScope(initialize_variables=False):  # Gigabytes, some of them.
        channels = 13 if values.data == "scenes" else 23 if "video" in path else 3
        side = 260 if kind == "patches" else 64
        network = (values.encoder, side, channels, *values.encoder_arg)
        if network not in built:
            built.add(network)
            models.encoder(values.encoder, input_shape=(side, side, channels),
                           **command.pairs(values.encoder_arg, "encoder_arg"))
    optimizers.build(values.optimizer, learning_rate=0.1,
                     **command.pairs(values.optimizer_arg, "optimizer_arg"))
    print("read", path)
"""


def test_every_recipe_says_what_its_method_takes():
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, *RECIPES],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("read")] == [
        f"read {path}" for path in RECIPES
    ]


# Views of two sizes, and clusters; SimCLR is smoked below, on a folder.
_SMOKED = ("swav_imagenet.flags", "deepcluster_imagenet.flags")


def _tokenizer(path):
    """An untrained one of grey images, as a file."""
    network = models.Tokenizer(
        vocabulary=16, downsampling=2, width=8, blocks=1, decoder_width=8, channels=1
    )
    preprocessing = data.Preprocessing(size=16, channels=1)
    keras_file.save(formats.Encoder(network, preprocessing), path)
    return path


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            path,
            id=os.path.basename(path),
            marks=[] if os.path.basename(path) in _SMOKED else pytest.mark.slow,
        )
        for path in RECIPES
    ],
)
def test_every_recipe_runs_with_smoke(recipe, tmp_path):
    name = _name(recipe)
    places = {}
    if name.startswith("beit"):
        places["TOKENIZER"] = _tokenizer(tmp_path / "tokenizer.keras")
    done = binary(
        "pretrain",
        f"--flagfile={recipe}",
        f"--out={tmp_path}",
        *smoke.flags_after(name, **places),
    )
    assert done.code == 0, done.stderr[-2000:]
    assert (tmp_path / "encoder.keras").exists()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(lines[-1])["loss"])
    assert 0 < json.loads(lines[-1])["knn_accuracy"] <= 1


@pytest.fixture(scope="module")
def smoked_classifier(tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    flagfile = SMOKE.replace("smoke.", "smoke_finetune.")
    done = binary("finetune", f"--flagfile={flagfile}", f"--out={out}")
    assert done.code == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=os.path.basename(path))
        for path in _FLAGFILES
        if os.path.basename(path).startswith(_OF_LABELS)
    ],
)
def test_every_recipe_of_labels_runs_with_smoke(recipe, smoked_classifier, tmp_path):
    name = _name(recipe)
    done = binary(
        name.partition("_")[0],
        f"--flagfile={recipe}",
        f"--out={tmp_path}",
        *smoke.flags_after(name, CLASSIFIER=smoked_classifier),
    )
    assert done.code == 0, done.stderr[-2000:]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(lines[-1])["loss"])
    assert (tmp_path / "classification.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=os.path.basename(path))
        for path in _FLAGFILES
        if os.path.basename(path).startswith(_OF_TOKENS)
    ],
)
def test_every_recipe_of_tokens_runs_with_smoke(recipe, tmp_path):
    done = binary(
        "train_tokenizer",
        f"--flagfile={recipe}",
        f"--out={tmp_path}",
        *smoke.flags_after(_name(recipe)),
    )
    assert done.code == 0, done.stderr[-2000:]
    assert (tmp_path / "tokenizer.keras").exists()
    assert (tmp_path / "tokenizer.html").exists()
    assert "tokenizer.keras" in done.stdout and "codes used" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=os.path.basename(path))
        for path in _FLAGFILES
        if os.path.basename(path).startswith(_OF_PIXELS)
    ],
)
def test_every_recipe_of_pixels_runs_with_smoke(recipe, tmp_path):
    done = binary(
        "train_segmenter",
        f"--flagfile={recipe}",
        f"--out={tmp_path}",
        *smoke.flags_after(_name(recipe)),
    )
    assert done.code == 0, done.stderr[-2000:]
    assert (tmp_path / "segmenter.keras").exists()
    assert (tmp_path / "segmentation.html").exists()
    assert "segmenter.keras" in done.stdout and "mIoU" in done.stdout


def test_images_to_served_features(tmp_path):
    """Pre-train on a folder, evaluate, export, and the flags run again."""
    write_images(tmp_path / "images")
    out = tmp_path / "run"
    done = binary(
        "pretrain",
        f"--data={tmp_path / 'images'}",
        "--validation_fraction=0.25", f"--out={out}", f"--flagfile={SMOKE}",
        f"--data={tmp_path / 'images'}", "--validation_data=", "--split=",
        "--validation_split=", "--labels=folders", "--recipe=simclr_cifar10",
        "--batch_size=6",
    )  # fmt: skip
    assert done.code == 0, done.stderr[-2000:]
    flags = (out / "run.flags").read_text()
    assert f"--data={tmp_path / 'images'}\n" in flags
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = binary("pretrain", f"--flagfile={out / 'run.flags'}", "--seed=9")
    assert done.code == 2 and "seed is 0 there and 9 here" in done.stderr
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    done = binary(
        "evaluate", f"--run={out}", "--budgets=1,100%", "--draws=2",
        "--supervised_epochs=1", "--supervised_min_steps=10", "--stages=conv1,res5",
        "--stage_features=64",
        "--probes=knn,linear,mlp", "--probe_option=mlp.units=8",
        "--probe_option=min_steps=20", "--probe_option=epochs=1",
    )  # fmt: skip
    assert done.code == 0, done.stderr[-2000:]
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    staged = [row for row in rows if "stage" in row]
    assert {(row["encoder"], row["stage"], row["probe"]) for row in staged} == {
        (encoder, stage, probe)
        for encoder in ("pre-trained", "random encoder")
        for stage in ("conv1", "res5")
        for probe in ("linear", "mlp")
    }
    assert "→ 8 → 2, ReLU" in staged[-1]["protocol"]
    assert "random encoder res5" in done.stdout
    rows = [row for row in rows if "stage" not in row]
    kinds = {row["features"] for row in rows}
    assert kinds == {"pre-trained", "raw pixels", "random encoder", "supervised"}
    assert {row["labels"] for row in rows} == {"1 per class", "100 %"}
    assert "raw pixels" in done.stdout
    html = (out / "report.html").read_text()
    assert "supervised" in html and "<svg" in html
    for flag, sentence in (
        ("--stages=conv9", "error: stage 'conv9' received, but the stages of the"),
        ("--probe_rates=0.1,fast", "error: --probe_rates=0.1,fast received, expected"),
    ):
        done = binary("evaluate", f"--run={out}", flag)
        assert done.code != 0 and "Traceback" not in done.stderr
        assert sentence in done.stderr + done.stdout

    base = tmp_path / "models"
    done = binary("export", f"--run={out}", f"--base_dir={base}", "--name=m", "--check")
    assert done.code == 0, done.stderr[-2000:]
    assert "through the bytes signature" in done.stdout
    assert (base / "m" / "1" / "saved_model.pb").exists()
    done = binary("export", f"--run={out}", f"--base_dir={base}", "--name=m",
                  "--version=1")  # fmt: skip
    assert done.code == 2 and "1" in done.stderr

    done = binary("pretrain", f"--flagfile={out / 'run.flags'}",
                  f"--out={tmp_path / 'again'}")  # fmt: skip
    assert done.code == 0, done.stderr[-2000:]
    first, second = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for folder in (out, tmp_path / "again")
    )
    assert first == second


def test_a_classifier_names_images(tmp_path):
    """Without a file to write to, a line for every image is printed."""
    classifiers.write_pictures(tmp_path / "images", count=2)
    (tmp_path / "run").mkdir()
    classifiers.of_a_run(
        classifiers.classifier(), str(tmp_path / "run" / "encoder.keras")
    )
    flags = [f"--run={tmp_path / 'run'}", f"--data={tmp_path / 'images'}", "--top=2"]
    done = binary("predict", *flags)
    assert done.code == 0, done.stderr[-2000:]
    made = classifiers.classifier()
    expected = predict.predict(made, str(tmp_path / "images"), top=2, verbose=0)
    assert done.stdout.splitlines() == [str(row) for row in expected]


@pytest.mark.parametrize(
    "name, flags, sentence",
    [
        ("pretrain", ["--method=byoll"], "should be one of"),
        pytest.param("pretrain", ["--epochs=0"], "epochs", marks=pytest.mark.slow),
        ("pretrain", ["--bach_size=8"], "Did you mean"),
        ("pretrain", ["--hparam=temperature"], "expected --hparam=name=value"),
        pytest.param(
            "pretrain", ["--data=/no/where"], "/no/where", marks=pytest.mark.slow
        ),
        pytest.param("pretrain", ["--data=empty"], "no image", marks=pytest.mark.slow),
        ("pretrain", ["--data=broken"], "decode"),
        ("finetune", ["--encoder=/no/where", "--data=digits"], "/no/where"),
        (
            "finetune",
            ["--encoder=resnet18", "--data=digits", "--class_weight=cat"],
            "expected --class_weight=name=value",
        ),
        ("distill", ["--teacher=/no/where", "--data=digits"], "/no/where"),
        ("evaluate", ["--run=/no/where"], "/no/where"),
        ("retrieve", ["--run=/no/where", "--data=empty", "--ground_truth=empty"], "No"),
        ("export", ["--run=/no/where"], "/no/where"),
        ("export", [], "run"),
    ],
)
def test_bad_input_ends_in_one_sentence(tmp_path, name, flags, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for i in range(10):
        (tmp_path / "broken" / f"{i}.jpg").write_bytes(b"not an image" * 9)
    flags = [
        flag.replace("=empty", f"={tmp_path / 'empty'}").replace(
            "=broken", f"={tmp_path / 'broken'}"
        )
        for flag in flags
    ]
    if name in ("pretrain", "finetune", "distill"):
        flags = [f"--out={tmp_path / 'run'}", "--batch_size=4", *flags]
    done = binary(name, *flags)
    assert done.code == 2
    assert sentence in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()

import json
import os
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import copied_runs, killed_processes
from tfssl import data, files, progress, replicas
from tfssl.formats import keras_file
from tfssl.models import norms
from tfssl.tasks import pretrain, runs, show_views
from tfssl.training import checkpoint, monitors

TINY = dict(
    encoder=lambda shape: tiny_encoder(shape),
    recipe="simclr_digits",
    image_size=8,
    hparams={"projection_dim": 8, "temperature": 0.5},
    optimizer="adamw",
    learning_rate=1e-3,
    lr_scaling="none",
    warmup_epochs=0.5,
    batch_size=8,
    verbose=0,
)


def tiny_encoder(input_shape, width=8):
    """Small, so that a run takes seconds; a ResNet takes that long to trace."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(width, 3, use_bias=False)(inputs)
    x = norms.BatchNorm(statistics="global")(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def images(n=40, size=8, seed=0):
    """Two classes of grey images, told apart by the half that is bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 100, size=(n, size, size, 1))
    pixels[labels == 0, : size // 2] += 120
    pixels[labels == 1, size // 2 :] += 120
    return pixels.astype(np.uint8), labels


@pytest.mark.view_sheet
def test_a_run_leaves_everything_it_promises(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0)  # All epochs are long.
    out = str(tmp_path / "run")
    run = pretrain.pretrain(
        images(),
        out,
        validation_data=images(seed=1),
        knn_epochs=1,
        epochs=2,
        **TINY | {"verbose": 1},
    )
    assert int(run.method.step.numpy()) == 10
    assert [line["step"] for line in run.history] == [5, 10]
    for key in ("loss", "contrastive_accuracy", "knn_accuracy", "embedding_std",
                "effective_rank", "learning_rate", "mutual_information"):  # fmt: skip
        assert np.isfinite(run.history[-1][key]), key
    printed, lines = capsys.readouterr()
    assert "\repoch" not in lines and "epoch 2/2: 5 of 5, " in lines
    assert "\b" not in printed and "\r" not in printed  # Nobody watches.
    assert "global batch 8 on 1 replica(s), 5 steps per epoch" in printed
    assert "14 negatives per anchor" in printed
    assert "chance-level loss 2.7081" in printed  # ln(2 * 8 - 1).
    assert "input from 0 (black) to 1 (white)" in printed
    assert "XLA off (jit_compile=auto), views finished on the host" in printed
    record = json.load(open(os.path.join(out, "run.json")))
    assert record["settings"]["hparams"] == TINY["hparams"]
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"]["xla"] == "off" and record["versions"]["processor"]
    assert record["versions"]["augment_on"] == "host"
    assert record["results"]["steps"] == 10
    assert {"views.png", "encoder.keras", "metrics.jsonl"} <= set(os.listdir(out))
    encoder = runs.load(out)
    batch = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(encoder(batch), run.encoder(batch))
    assert encoder.preprocessing == run.encoder.preprocessing
    # Started again, the finished run does nothing and loses nothing.
    again = pretrain.pretrain(images(), out, epochs=2, **TINY)
    np.testing.assert_array_equal(encoder(batch), again.encoder(batch))
    assert again.history == run.history


def straight_and_interrupted(tmp_path, save_at=6, **settings):
    """One straight run, and one that is killed at step 8 and resumed at `save_at`."""

    def train(out, **more):
        return pretrain.pretrain(images(), str(out), **TINY | settings | more)

    return copied_runs.of(train, tmp_path, save_at)


def test_resume_in_mid_epoch_equals_the_straight_run(tmp_path):
    assert_same_runs(*straight_and_interrupted(tmp_path))


def test_on_one_gpu_steps_are_compiled_and_batches_copied_ahead(tmp_path, monkeypatch):
    """What a GPU turns on, on the CPU; what waits on the device is not lost."""
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    monkeypatch.setattr(replicas, "single_gpu", lambda strategy: "/CPU:0")
    whole, parts = straight_and_interrupted(tmp_path, optimizer="sgd")
    assert_same_runs(whole, parts)
    assert whole.method.jit_compile and whole.settings["jit_compile"] == "auto"
    record = files.read_json(os.path.join(whole.path, "run.json"))
    assert record["versions"]["xla"] == "on"
    assert record["versions"]["augment_on"] == "device"


def assert_same_runs(whole, parts):
    """Every variable and every logged number, but for times."""
    expected = checkpoint.named_variables(whole.method)
    found = checkpoint.named_variables(parts.method)
    assert list(expected) == list(found)
    for name, variable in expected.items():
        np.testing.assert_array_equal(variable, found[name], err_msg=name)
    timing = {"images_per_second", "input_wait_share"}
    for a, b in zip(whole.history, parts.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {
            k: v for k, v in b.items() if k not in timing
        }


@pytest.fixture
def tiny(tmp_path):
    """Path of an untrained `tiny_encoder`."""
    path = str(tmp_path / "tiny.keras")
    preprocessing = data.Preprocessing(size=8, channels=1)
    keras_file.save(tiny_encoder((8, 8, 1)), path, preprocessing)
    return path


_SIMCLR = ["--method=simclr"]
_MOCO = ["--method=moco", "--encoder_arg=norm_statistics='split'"]


@pytest.mark.parametrize(
    "method",
    [
        _SIMCLR,
        # The state of every method is compared in methods/resume_test.py.
        pytest.param([*_SIMCLR, "--hparam=queue_size=500"], marks=pytest.mark.slow),
        pytest.param(["--method=byol"], marks=pytest.mark.slow),
        pytest.param(
            [*_MOCO, "--hparam=version=1", "--hparam=queue_size=500"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [*_MOCO, "--hparam=version=2", "--hparam=queue_size=500"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["--method=moco", "--hparam=version=3"], marks=pytest.mark.slow),
        pytest.param(
            [
                "--method=swav",
                "--hparam=num_prototypes=50",
                "--hparam=queue_size=64",
                "--hparam=queue_epoch=0.5",
                "--hparam=freeze_epochs=0.5",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "--method=deepcluster",
                "--recipe=deepcluster_digits",
                "--hparam=num_clusters=20",
                "--hparam=pca_components=4",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--method=deepcluster_v2", "--hparam=num_clusters=(20,30)"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--method=npid", "--hparam=negatives=64", "--recipe=deepcluster_digits"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "--method=local_aggregation",
                "--recipe=deepcluster_digits",
                "--hparam=num_clusters=(20,30)",
                "--hparam=warmup_epochs=1",
                "--hparam=negatives=64",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "--method=feature_distillation",
                "--recipe=deepcluster_digits",
                f"--teacher={processes.ROOT}/savedmodels/simclr_digits",
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=(
        "simclr memory byol moco_v1 moco_v2 moco_v3 swav deepcluster deepcluster_v2 "
        "npid local_aggregation feature_distillation"
    ).split(),
)
def test_killed_processes_resume_to_the_same_weights(tmp_path, tiny, method):
    """kill -9 and SIGTERM at some step of a real process, then start again."""
    encoder = [f"--encoder={tiny}"]
    if method != _SIMCLR:  # Those have arguments for it.
        encoder = ["--encoder_arg=width=0.0625", "--encoder_arg=stem='cifar'"]

    def command(out):
        flags = [
            *encoder, "--data=digits", "--channels=1",
            "--recipe=simclr_digits", "--image_size=8", "--epochs=2", "--batch_size=32",
            "--warmup_epochs=0.5", "--checkpoint_steps=7", "--optimizer=adamw",
            "--learning_rate=1e-3", "--lr_scaling=none", *method,
        ]  # fmt: skip
        return [sys.executable, "-m", "pipelines.pretrain", *flags, f"--out={out}"]

    killed_processes.assert_same_weights(*killed_processes.resumed(command, tmp_path))


# A named one on replicas trains in methods/contract_test.py, too.
@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_replicas_train_like_one(own, tmp_path, mirrored):
    # Small steps keep rounding from growing.
    settings = TINY | {"epochs": 1, "learning_rate": 1e-5}
    if own:
        settings["optimizer"] = keras.optimizers.Adam(1e-5)
    alone = pretrain.pretrain(images(), str(tmp_path / "a"), **settings)
    mirrored(2)  # Fresh collective keys for the strategy that the task makes.
    both = pretrain.pretrain(
        images(), str(tmp_path / "b"), strategy="mirrored", num_replicas=2, **settings
    )
    assert both.history[-1]["loss"] == pytest.approx(
        alone.history[-1]["loss"], rel=1e-4
    )
    assert int(both.method.position.numpy()) == int(alone.method.position.numpy())
    steps = both.method.step.numpy()
    assert both.method.optimizer.iterations.numpy() == steps > 0


def test_init_from_takes_weights_and_starts_at_zero(run, tmp_path, caplog):
    second = pretrain.pretrain(
        images(),
        str(tmp_path / "b"),
        epochs=1,
        init_from=str(run),
        **TINY | {"learning_rate": 0.0, "hparams": {"projection_dim": 4}},
    )
    assert int(second.method.step.numpy()) == 5
    kernel = runs.load(run).trainable_variables[0]
    np.testing.assert_array_equal(kernel, second.encoder.trainable_variables[0])
    assert any("last_dense/kernel" in message for message in caplog.messages)


def small_application(input_shape, alpha, include_top, weights, pooling):
    """As keras.applications has them, but of two convolutions."""
    assert (include_top, weights, pooling) == (False, None, "avg")
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(int(16 * alpha), 3, strides=2, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    "name", ["Small", pytest.param("MobileNet", marks=pytest.mark.slow)]
)
def test_encoders_from_keras_applications_and_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.applications, "Small", small_application, raising=False)
    # There the preprocessing that belongs to it is looked up.
    home = keras.applications.MobileNet.__module__
    monkeypatch.setattr(small_application, "__module__", home)
    run = pretrain.pretrain(
        np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3)).astype("uint8"),
        str(tmp_path / "a"),
        epochs=1,
        **TINY
        | {
            "encoder": f"keras.applications.{name}",
            "encoder_args": {"alpha": 0.25},
            "recipe": "simclr_cifar10",
            "image_size": 32,
        },
    )
    assert run.method.feature_dim == run.encoder.output_shape[-1]
    again = pretrain.pretrain(
        np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3)).astype("uint8"),
        str(tmp_path / "b"),
        epochs=1,
        **TINY
        | {
            "encoder": str(tmp_path / "a" / "encoder.keras"),
            "recipe": "simclr_cifar10",
            "image_size": 32,
            "learning_rate": 0.0,
        },
    )
    np.testing.assert_array_equal(
        run.encoder.trainable_variables[0], again.encoder.trainable_variables[0]
    )


def partly_labelled(n, known, seed=0):
    """Every image but the first `known` has the label -1."""
    pixels, labels = images(n, seed=seed)
    return pixels, np.where(np.arange(n) < known, labels, -1)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_knn_monitor_takes_the_labelled_part(tmp_path, capsys, held_out):
    settings = {"validation_data": partly_labelled(20, 12, seed=1)}
    told = ["24 of 48 training", "12 of 20 validation"]
    if held_out:
        settings = {"validation_fraction": 0.25}
        told = ["18 of 42 training"]
    run = pretrain.pretrain(
        partly_labelled(48, 24),
        str(tmp_path),
        epochs=1,
        knn_epochs=1,
        **TINY | {"verbose": 2} | settings,
    )
    assert run.history[0]["knn_accuracy"] == 1.0
    printed = capsys.readouterr().out.splitlines()
    found = [line for line in printed if line.startswith("kNN monitor: ")]
    expected = [f"kNN monitor: the {part} images that have a label" for part in told]
    assert found == expected


@pytest.mark.view_sheet
def test_what_monitors_raise_costs_no_training(tmp_path, caplog, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(monitors, "embedding_spread", broken)
    monkeypatch.setattr(show_views, "sheet", broken)
    monkeypatch.setattr(tf.summary, "create_file_writer", broken)
    folder = tmp_path / "validation"
    for number, image in enumerate(images(20, seed=1)[0]):
        file = folder / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = tf.io.encode_png(image).numpy()
        file.write_bytes(content[: len(content) // (2 if number in (3, 5, 8) else 1)])
    run = pretrain.pretrain(
        images(),
        str(tmp_path / "run"),
        epochs=2,
        knn_epochs=1,
        online_probe_epochs=1,
        validation_data=data.open_source(str(folder), labels="folders", channels=1),
        **TINY,
    )
    assert [line["step"] for line in run.history] == [5, 10]
    assert set(run.history[0]).isdisjoint({"knn_accuracy", "embedding_std"})
    told = [m for m in caplog.messages if m.endswith("Training goes on.")]
    assert sum("views.png failed (no memory)" in message for message in told) == 1
    for name, reason in (
        ("Collapse", "no memory"),
        ("OnlineKNN", r"\d of 20 images of .* could not be read"),
        ("OnlineProbe", r"\d of 20 images of .* could not be read"),
        ("Curves", "no memory"),
    ):
        for step in (5, 10):
            pattern = rf"{name} at step {step} failed \({reason}"
            assert sum(bool(re.match(pattern, m)) for m in told) == 1, (name, told)

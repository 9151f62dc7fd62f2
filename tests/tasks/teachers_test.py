"""Where teachers come from, and a training that learns from one."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

import tfssl
from tests import processes
from tests.fixtures import fake_tpu, networks
from tests.methods import cases
from tests.tasks import pretrain_test as small
from tfssl import data, files, formats, frozen, methods
from tfssl.formats import keras_file
from tfssl.tasks import evaluate, export, pretrain, run_report, teachers
from tfssl.training import checkpoint

GREY = data.Preprocessing(size=12, channels=1, mean=0.5, std=0.5)
VIEWS = data.Preprocessing(size=8, channels=1)
SETTINGS = small.TINY | {
    "method": "feature_distillation",
    "recipe": "deepcluster_digits",
    "hparams": None,
    "epochs": 2,
}


def teacher(seed=3):
    keras.utils.set_random_seed(seed)
    return formats.Encoder(small.tiny_encoder((12, 12, 1), width=6), GREY)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same teacher in every form that is a path."""
    root = tmp_path_factory.mktemp("teachers")
    encoder = teacher()
    keras_file.save(encoder, str(root / "file.keras"))
    (root / "run").mkdir()
    shutil.copy(root / "file.keras", root / "run" / "encoder.keras")
    formats.saved_model(encoder, str(root / "exported"), version=9)
    shutil.copytree(root / "exported" / "9", root / "exported" / "10")
    files.write_json(
        str(root / "exported" / "9" / "assets.extra" / "preprocessing.json"), {}
    )
    return root


def train(out, given, **changes):
    settings = SETTINGS | {"teacher": given} | changes
    return pretrain.pretrain(small.images(), str(out), **settings)


@pytest.mark.parametrize(
    "place", ["file.keras", "run", "exported", "exported/9", "exported/10"]
)
def test_a_teacher_is_the_same_from_everywhere(places, place):
    opened = teachers.open_teacher(str(places / place), VIEWS)
    assert opened.fingerprint == frozen.fingerprint(teacher().network, GREY)
    assert opened.preprocessing == GREY and opened.views == VIEWS
    images = np.random.default_rng(0).uniform(size=(2, 12, 12, 1)).astype("float32")
    np.testing.assert_array_equal(opened.network(images), teacher()(images))
    record = opened.record()
    assert json.loads(json.dumps(record)) == record
    assert record["parameters"] == opened.network.count_params()


def test_models_of_python_teach_too():
    network = networks.own()
    made = data.Preprocessing(size=8)
    views = data.Preprocessing(size=4)
    for given, own in ((network, made), (formats.Encoder(network, made), None)):
        opened = teachers.open_teacher(given, views, own)
        assert opened.network is network and opened.preprocessing == made
        assert opened.layer().asked_for()[1] == (None, 5)


@pytest.mark.parametrize("kind", ["DINOV2Backbone", "DINOV3Backbone"])
def test_backbones_of_keras_hub_teach(tmp_path, kind):
    """With random weights: their presets are fetched from the network."""
    keras_hub = pytest.importorskip("keras_hub")
    backbone = getattr(keras_hub.models, kind)(
        patch_size=4, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32,
        image_shape=(16, 16, 3), num_register_tokens=2, use_mask_token=False,
        **{"position_embedding_shape": (16, 16, 3)} if kind == "DINOV2Backbone" else {},
    )  # fmt: skip
    made = data.Preprocessing(size=16, mean=(0.4, 0.5, 0.6), std=0.2)
    views = data.Preprocessing(size=8)
    network = keras.Model(backbone.inputs[0], backbone.output[:, 0])
    path = str(tmp_path / "dino.keras")
    keras_file.save(formats.Encoder(network, made), path)
    opened = teachers.open_teacher(path, views)
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(
        opened.layer()(images), network((images - made.mean) / 0.2), atol=1e-5
    )
    patches = keras.layers.Reshape((4, 4, 16))(backbone.output[:, 3:])
    patches = keras.Model(backbone.inputs[0], patches)
    for given, shape in ((network, (None, 16)), (patches, (None, 4, 4, 16))):
        layer = teachers.Teacher(given, made, views).layer()
        assert layer.asked_for()[1] == shape
        student = methods.FeatureDistillation(networks.sequential(), layer)
        batch = cases.batch_of(images[:, :8, :8])
        assert np.isfinite(student.image_losses(batch, training=True)["loss"]).all()


def test_a_training_learns_from_its_teacher_and_resumes_without_its_weights(
    tmp_path, places, capsys
):
    path = str(places / "run")
    whole = train(tmp_path / "whole", path, verbose=2, checkpoint_steps=5, keep=9)
    printed = capsys.readouterr().out
    assert "gives 6 for images of 12 px" in printed
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    assert whole.history[-1]["teacher_cosine"] == pytest.approx(
        1 - whole.history[-1]["loss"], abs=1e-5
    )
    record = files.read_json(f"{whole.path}/run.json")
    assert record["settings"]["teacher"] == path
    print_ = frozen.fingerprint(teacher().network, GREY)
    assert record["made"]["teacher"]["fingerprint"] == print_
    held = whole.method.teacher.network.get_weights()
    for mine, original in zip(held, teacher().network.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, original)

    # As a process leaves it that is killed in between; the teacher has moved.
    out = tmp_path / "parts"
    shutil.copytree(whole.path, out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-10")
    (out / "metrics.jsonl").write_text(
        (out / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    )
    parts = train(out, str(places / "exported"), checkpoint_steps=5, keep=9)
    small.assert_same_runs(whole, parts)
    held = checkpoint.read_state(checkpoint.latest(str(out / "checkpoints")))
    kernels = [v for v in held["variables"] if v.startswith("method") and "kern" in v]
    assert kernels == ["method/conv2d/kernel", "method/projector/last_dense/kernel"]

    # Without the teacher the encoder is as good; with another the run is refused.
    before = sorted(os.listdir(out))
    with pytest.raises(
        ValueError,
        match=f"teacher is '.*{print_}' there and '.*' here. Start .*teacher",
    ):
        train(out, teacher(seed=4), checkpoint_steps=5, keep=9)
    assert sorted(os.listdir(out)) == before
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(tfssl.load(str(out))(images), parts.encoder(images))
    head = tfssl.load(str(out), head_layer=1)
    np.testing.assert_allclose(head(images), parts.method.embed(images), atol=1e-6)
    card = export.export(str(out), str(tmp_path / "models"), name="student")
    card = open(os.path.join(os.path.dirname(card), "README.md")).read()
    assert "## Teacher" in card and print_ in card
    _, shown, _ = run_report._of_run(str(out))
    assert print_ in shown["teacher"]


def test_two_replicas_learn_like_one(tmp_path, places, mirrored):
    settings = {"learning_rate": 1e-5, "epochs": 1, "optimizer": "sgd"}
    path = str(places / "file.keras")
    alone = train(tmp_path / "alone", path, **settings)
    mirrored(2)
    both = train(
        tmp_path / "both", teacher(), strategy="mirrored", num_replicas=2, **settings
    )
    assert both.history[-1]["loss"] == pytest.approx(
        alone.history[-1]["loss"], rel=1e-4
    )


def test_a_strategy_of_one_replica_has_the_variables_of_its_teacher():
    """As the only core of a TPU, which has none that were made elsewhere."""
    opened = teachers.open_teacher(teacher(), VIEWS)
    assert opened.layer().network is opened.network
    strategy = fake_tpu.strategy(1)
    with strategy.scope():
        copy = opened.layer().network
    for mine, given in zip(copy.variables, opened.network.variables, strict=True):
        assert strategy.extended.variable_created_in_scope(mine.value)
        np.testing.assert_array_equal(mine, given)


def test_a_map_is_learned_by_the_name_of_a_layer(tmp_path):
    encoder = teacher()
    name = encoder.network.layers[1].name  # The convolution.
    run = train(tmp_path / "run", encoder, hparams={"teacher_layer": name}, epochs=1)
    assert run.method.projector.output_shape == (None, 6)
    assert run.method.head is None and np.isfinite(run.history[0]["loss"])
    with pytest.raises(ValueError, match="feature_distillation, which .* has no head"):
        tfssl.load(run.path, head_layer=1)


@pytest.mark.slow
def test_a_student_of_a_pre_trained_encoder_beats_a_random_one(tmp_path):
    """On the digits, from the exported encoder of `make run`, without labels."""
    run = pretrain.pretrain(
        "digits",
        str(tmp_path / "run"),
        split="train",
        validation_data="digits",
        validation_split="test",
        teacher=os.path.join(processes.ROOT, "savedmodels", "simclr_digits"),
        encoder_args={"width": 0.125, "stem": "cifar"},
        **SETTINGS
        | {"encoder": "resnet18", "image_size": 16, "epochs": 20, "batch_size": 64},
    )
    rows = evaluate.evaluate(
        run.path,
        probes=("knn",),
        budgets=("100%",),
        baselines=("random_encoder",),
        verbose=0,
    )
    accuracy = {row["features"]: row["accuracy"] for row in rows}
    assert accuracy["pre-trained"] > accuracy["random encoder"] + 0.2


def test_mistakes_with_teachers_are_one_sentence_and_write_nothing(tmp_path, places):
    bare = small.tiny_encoder((12, 12, 1))
    bare.save(tmp_path / "bare.keras")
    colour = formats.Encoder(networks.sequential(), data.Preprocessing(size=8))
    out = tmp_path / "out"
    for changes, message in (
        ({"teacher": None}, "'feature_distillation' learns from a teacher, but none"),
        ({"method": "simclr", "recipe": "simclr_digits", "teacher": "x"},
         "teacher='x' received, expected none with method='simclr', but with beit o"),
        ({"teacher": str(tmp_path / "none")}, "No encoder at '.*none'; pass the --out"),
        ({"teacher": str(tmp_path)}, "No encoder at"),
        ({"teacher": bare}, "has no preprocessing, so that nobody knows which pixels"),
        ({"teacher": str(tmp_path / "bare.keras")}, "has no preprocessing, so that"),
        ({"teacher": 5}, "teacher=5 received, expected a text or a path or"),
        ({"teacher": colour}, r"takes images of 3 channel\(s\), but the views have 1"),
        ({"teacher": formats.Encoder(bare, VIEWS)}, "takes images of 12 x 12 x 1, but"),
        ({"hparams": {"teacher": "x"}}, "hparam 'teacher' received, but feature_dist"),
        ({"hparams": {"teacher_layer": "x"}}, "layer 'x' received, but the feature m"),
        ({"hparams": {"projection_hidden": "x"}}, "projection_hidden='x' received, e"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            train(out, **{"given": str(places / "run")} | {
                "given" if k == "teacher" else k: v for k, v in changes.items()
            })  # fmt: skip
        assert str(error.value).count(". ") == 0, str(error.value)
        assert not out.exists()

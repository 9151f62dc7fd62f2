"""What is read back of a run: its encoder, alone and with layers of its head."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tests.tasks.evaluate_test import evaluated
from tfssl import formats, models
from tfssl.formats import keras_file
from tfssl.tasks import embed, export, pretrain, runs

_HPARAMS = {"projection_dim": 4, "projection_hidden": 6}
# Method, its arguments, and where each layer of its head ends, in Keras layers.
_HEADS = {
    "simclr": ("simclr", _HPARAMS | {"projection_layers": 2}, (3, 5)),
    "simclr v2": ("simclr", _HPARAMS | {"projection_layers": 3}, (3, 6, 8)),
    "byol": ("byol", _HPARAMS, (3, 4)),
    "moco": ("moco", _HPARAMS | {"queue_size": 16}, (2, 3)),
}


def trained(out, method="simclr", hparams=_HPARAMS, **settings):
    """A short run, at a rate that moves the statistics of the head as well."""
    settings = small.TINY | {"epochs": 1, "learning_rate": 0.1} | settings
    data = small.images()
    return pretrain.pretrain(
        data, str(out), **settings | {"method": method, "hparams": hparams}
    )


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(5, 8, 8, 1)).astype("float32")


def assert_layers_of(method, out, ends):
    """Whether every `head_layer` gives what the method's own projector gives there."""
    for layer, end in enumerate((0, *ends)):
        expected = method.encoder(batch(), training=False)
        for one in method.projector.layers[:end]:
            expected = one(expected, training=False)
        encoder = runs.load(out, head_layer=layer)
        found = encoder(batch(), training=False)
        assert encoder.output_shape[1:] == found.shape[1:]
        assert layer == 0 or found.dtype == tf.float32
        np.testing.assert_array_equal(
            *(tf.cast(x, tf.float32) for x in (found, expected))
        )
    assert end == len(method.projector.layers)


# Two layers, as of BYOL, have the other tests; MoCo's have no norms.
@pytest.mark.parametrize(
    "case",
    [
        "simclr v2",
        "moco",
        pytest.param("simclr", marks=pytest.mark.slow),
        pytest.param("byol", marks=pytest.mark.slow),
    ],
)
def test_layers_of_the_head_are_those_that_were_trained(case, tmp_path):
    method, hparams, ends = _HEADS[case]
    run = trained(tmp_path, method, hparams)
    assert run.method.head is run.method.projector
    assert_layers_of(run.method, tmp_path, ends)


def test_layers_of_a_head_that_two_replicas_trained(tmp_path, mirrored):
    mirrored(2)  # Fresh collective keys for the strategy that the task makes.
    run = trained(tmp_path, strategy="mirrored", num_replicas=2)
    norm = run.method.projector.layers[1]
    assert norm.statistics == "global"
    assert_layers_of(run.method, tmp_path, (3, 5))
    # It trains on outside of a strategy, by the statistics of its own batch.
    x = runs.load(tmp_path, head_layer=2)(batch(), training=True)
    np.testing.assert_allclose(np.mean(x, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_layers_of_a_head_in_mixed_precision(policy, tmp_path):
    run = trained(tmp_path, precision=policy)
    assert run.method.projector.layers[0].compute_dtype == policy.removeprefix("mixed_")
    assert_layers_of(run.method, tmp_path, (3, 5))


def again(out, **changes):
    """The start of the shared `run`, in a copy of its folder."""
    settings = small.TINY | {"epochs": 2} | changes
    return pretrain.pretrain(small.images(), str(out), **settings)


@pytest.fixture
def older(run, tmp_path):
    """The run as a version of tfssl leaves it that keeps no head."""
    out = tmp_path / "older"
    shutil.copytree(run, out)
    keras_file.save(runs.load(out), out / "encoder.keras")
    return out


def test_it_is_one_encoder_in_every_respect(run, tmp_path):
    alone, encoder = runs.load(run), runs.load(run, head_layer=1)
    assert isinstance(encoder, formats.Encoder)
    assert isinstance(encoder.network, models.Headed)
    assert encoder.preprocessing == alone.preprocessing
    # Saved by Keras, and from then on a `.keras` file as any other.
    path = str(tmp_path / "with_head.keras")
    encoder.save(path)
    read = runs.load(path)
    np.testing.assert_array_equal(read(batch()), encoder(batch()))
    logits = keras.layers.Dense(3)(read.output)
    classifier = keras.Model(read.input, logits)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(classifier(batch(), training=True) ** 2)
    variables = classifier.trainable_variables
    assert len(variables) == 3 + 3 + 2  # Of encoder, layer and classifier.
    for variable, slope in zip(variables, tape.gradient(loss, variables)):
        assert np.abs(slope).max() > 0, variable.path


def test_embed_evaluate_and_export_take_it(run, tmp_path):
    encoder = runs.load(run, head_layer=1)
    found = embed.embed(encoder, small.images(), verbose=0)
    pixels = tf.stack(
        [encoder.preprocessing.apply(tf.constant(x)) for x in small.images()[0]]
    )
    expected = encoder(pixels, training=False)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)
    rows = evaluated(
        encoder,
        data=small.images(),
        validation_data=small.images(seed=1),
        baselines=("random_encoder",),
        budgets=("100%",),
    )
    assert {row["features"] for row in rows} == {"pre-trained", "random encoder"}
    path = str(tmp_path / "with_head.keras")
    encoder.save(path)
    data = small.images()[0]
    assert export.export(path, str(tmp_path / "models"), check=True, data=data)


def test_an_encoder_with_a_head_can_be_trained_anew(run, tmp_path):
    path = str(tmp_path / "with_head.keras")
    runs.load(run, head_layer=1).save(path)
    new = trained(tmp_path / "new", encoder=path)
    assert_layers_of(new.method, tmp_path / "new", (3, 5))


def test_the_file_of_a_run_can_be_moved(run, tmp_path):
    path = shutil.copy(run / "encoder.keras", tmp_path / "moved.keras")
    expected = runs.load(run, head_layer=2)(batch())
    np.testing.assert_array_equal(runs.load(path, head_layer=2)(batch()), expected)


def test_an_older_run_gets_its_head_and_keeps_everything_else(run, older):
    with pytest.raises(ValueError, match="head_layer=1 received, but '.*older' is of a "
                       "version of tfssl that kept no head; start its pre-training "
                       "again with the same flags"):  # fmt: skip
        runs.load(older, head_layer=1)
    before = {p: p.read_bytes() for p in older.rglob("*") if p.is_file()}
    again(older)
    changed = [p.name for p, content in before.items() if p.read_bytes() != content]
    assert changed == ["encoder.keras"]
    expected = runs.load(run, head_layer=2)(batch())
    np.testing.assert_array_equal(runs.load(older, head_layer=2)(batch()), expected)
    shutil.rmtree(older / "checkpoints")
    keras_file.save(runs.load(older), older / "encoder.keras")
    with pytest.raises(ValueError, match="no checkpoint to take it from is left"):
        runs.load(older, head_layer=1)


def test_a_run_that_goes_on_keeps_the_head_of_its_encoder(run, tmp_path):
    out = tmp_path / "longer"
    shutil.copytree(run, out)
    longer = again(out, epochs=3, allow_changes=("epochs",))
    assert_layers_of(longer.method, out, (3, 5))
    first = runs.load(run, head_layer=1)(batch())
    assert np.abs(first - runs.load(out, head_layer=1)(batch())).max() > 0


def test_an_encoder_of_before_a_training_went_on_is_said_to_be(run, tmp_path, caplog):
    out = tmp_path / "longer"
    shutil.copytree(run, out)
    runs.load(out)
    assert not caplog.records
    with pytest.raises(RuntimeError, match="accepted"):
        again(out, epochs=3, allow_changes=("epochs",), on_accept=_stops)
    np.testing.assert_array_equal(runs.load(out)(batch()), runs.load(run)(batch()))
    assert f"{out} was trained on after {out / 'encoder.keras'} was" in caplog.text
    assert caplog.text.count("was trained on after") == 1
    # What cannot be known needs no word, and takes no encoder away.
    for text in ("{", '{"evaluation": []}'):
        (out / "run.json").write_text(text)
        runs.load(out)
    assert caplog.text.count("was trained on after") == 1


def _stops():
    raise RuntimeError("accepted")


def test_a_method_without_a_head_is_refused(older):
    record = json.loads((older / "run.json").read_text())

    def refused(name):
        (older / "run.json").write_text(json.dumps(record))
        said = f"but {name}, which trained '.*older', has no head; leave head_layer out"
        with pytest.raises(ValueError, match=said):
            runs.load(older, head_layer=1)

    record["settings"]["method"] = "deepcluster"
    refused("deepcluster")
    # Of a tokenizer, whose training is a task of its own.
    del record["settings"]["method"]
    record |= {"task": "train_tokenizer", "results": {"head": False}}
    refused("train_tokenizer")
    assert runs.load(older).output_shape == (None, 8)


@pytest.mark.parametrize(
    "head_layer, sentence",
    [
        (3, r"head_layer=3 received, .* has 2 layer\(s\); give 0 \(none\) to 2"),
        (-1, "head_layer=-1 received, expected a whole number, 0 or more"),
        (True, "head_layer=True received"),
        (1.0, "head_layer=1.0 received"),
        ("1", "head_layer='1' received"),
        (None, "head_layer=None received"),
    ],
)
def test_layers_that_are_none_are_refused(run, head_layer, sentence):
    with pytest.raises(ValueError, match=sentence):
        runs.load(run, head_layer=head_layer)


def test_a_file_without_a_head_is_refused(older, tmp_path):
    path = shutil.copy(older / "encoder.keras", tmp_path / "alone.keras")
    with pytest.raises(ValueError, match="alone.keras' holds an encoder alone; pass"):
        runs.load(path, head_layer=1)
    with pytest.raises(ValueError, match="No encoder at"):
        runs.load(tmp_path / "nowhere", head_layer=1)
    os.remove(older / "run.json")  # Nobody knows what trained it.
    with pytest.raises(ValueError, match="kept no head"):
        runs.load(older, head_layer=1)


def test_the_folder_of_an_exported_model_is_no_run(run, tmp_path):
    version = export.export(str(run), str(tmp_path / "models"), name="small")
    model = os.path.dirname(version)
    assert runs.folder_of(str(run)) == str(run)
    assert runs.folder_of(version) is runs.folder_of(model) is None
    before = sorted(os.listdir(model))
    rows = evaluated(model, baselines=(), budgets=("100%",))
    assert {row["features"] for row in rows} == {"pre-trained"}
    assert sorted(os.listdir(model)) == before
    # A run with versions below it is a run all the same.
    inside = tmp_path / "both"
    shutil.copytree(model, inside)
    shutil.copy(run / "encoder.keras", inside)
    assert runs.folder_of(str(inside)) == str(inside)
    # The version is exported again as the next one of its model.
    again = export.export(version, str(tmp_path / "models"))
    assert again == os.path.join(model, "2")
    assert export.export(model, str(tmp_path / "more")).endswith("more/small/1")

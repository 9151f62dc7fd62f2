"""What pre-training refuses, and what of it it can do without."""

import shutil

import keras
import pytest
import tensorflow as tf

from tests.tasks.pretrain_test import TINY, images, tiny_encoder
from tfssl import files
from tfssl.tasks import pretrain

_ONE_VIEW = "deepcluster_digits"


def _frozen(shape):
    network = tiny_encoder(shape)
    network.trainable = False
    return network


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"method": "simclrr"}, "method='simclrr' received, expected one of .*simclr"),
        ({"recipe": "nope"}, "nope"),
        ({"precision": "float8"}, "precision='float8' received, expected one of"),
        ({"hparams": {"tau": 1}}, "hparam 'tau' received, but simclr takes only: temp"),
        (
            {"method": "npid", "recipe": _ONE_VIEW, "max_bank_gib": 1e-6},
            r"max_bank_gib=1e-06 received, but 1 bank\(s\) of 40 images by 8 numbers",
        ),
        (
            {
                "method": "npid",
                "recipe": _ONE_VIEW,
                "hparams": {"projection_dim": 10**8},
            },
            "lower projection_dim, or raise max_bank_gib to 15",
        ),
        (
            {"method": "npid", "recipe": _ONE_VIEW, "hparams": {"num_images": 39}},
            "num_images=39 received, but .* has 40 images; give NPID num_images=40",
        ),
        (
            {
                "method": "deepcluster_v2",
                "batch_size": 30,
                "hparams": {"num_clusters": 31},
            },
            "full batches of 30 hold 30 of 40 images",
        ),
        ({"encoder": "resnet19"}, "resnet19"),
        ({"encoder": "keras.applications.Nope"}, "is not in keras.applications"),
        ({"encoder": lambda shape: _frozen(shape)}, "is frozen, and nothing of it"),
        ({"optimizer": "adamax"}, "adamax"),
        ({"lr_scaling": "cubic"}, "cubic"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 64}, "64.*40"),
        ({"steps_per_execution": 2}, "does not divide the 5 steps of an epoch; use"),
        ({"knn_epochs": 1}, "there are no validation images"),
        (
            {"knn_epochs": 1, "validation_data": images(seed=1)[0]},
            "there are no validation labels",
        ),
        (
            {
                "knn_epochs": 1,
                "data": (images()[0], [-1] * 40),
                "validation_data": images(seed=1),
            },
            "there are no training labels",
        ),
        (
            {
                "online_probe_epochs": 1,
                "validation_data": (images(seed=1)[0], [-1] * 40),
            },
            "there are no labelled validation images",
        ),
        ({"online_probe_epochs": 1}, "there are no labelled validation images"),
        (
            {"online_probe_epochs": 1, "data": images()[0]},
            "there are no labels of two classes",
        ),
        ({"online_probe_data": images()}, "the probe is off"),
        (
            {"online_probe_epochs": 1, "online_probe_steps": 0},
            "online_probe_steps=0 received, expected a whole number",
        ),
        ({"validation_fraction": 1.5}, "1.5"),
        ({"strategy": "nccl"}, "strategy='nccl' received"),
        ({"strategy": "mirrored", "num_replicas": 3}, "does not divide over 3"),
        ({"init_from": "/nowhere"}, "not a tfssl checkpoint"),
        ({"out": "/proc/nothing/here"}, "cannot be written"),
        ({"data": "/no/such/folder"}, "/no/such/folder"),
        ({"data": 7}, "int"),
    ],
)
def test_bad_input_gets_one_clear_sentence(tmp_path, changes, sentence):
    arguments = {"data": images(), "out": str(tmp_path)} | TINY | {"epochs": 1}
    with pytest.raises(ValueError, match=sentence) as caught:
        pretrain.pretrain(**arguments | changes)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("count", [1, 2])
def test_an_encoder_from_outside_of_the_strategy_is_refused(tmp_path, count):
    mine = TINY | {"encoder": tiny_encoder((8, 8, 1))}
    with pytest.raises(ValueError, match="outside of the strategy; pass a function"):
        pretrain.pretrain(
            images(),
            str(tmp_path),
            epochs=1,
            strategy="mirrored",
            num_replicas=count,
            **mine,
        )


def test_a_checkpoint_of_another_architecture_is_refused(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    wider = TINY | {"encoder": lambda shape: tiny_encoder(shape, width=6)}
    with pytest.raises(ValueError, match="was written by another model or optimizer"):
        pretrain.pretrain(images(), out, epochs=2, **wider)
    with pytest.raises(ValueError, match="resume is off"):
        pretrain.pretrain(images(), out, epochs=2, resume=False, **TINY)


def test_bad_files_are_skipped_listed_and_bounded(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(images(n=24)[0]):
        (folder / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    bad = folder / "07.png"
    bad.write_bytes(bad.read_bytes()[:40])
    run = pretrain.pretrain(
        str(folder),
        str(tmp_path / "a"),
        channels=1,
        max_bad_fraction=0.1,
        **TINY | {"epochs": 2},
    )
    assert int(run.method.step.numpy()) == 6
    assert files.read_json(str(tmp_path / "a" / "run.json"))["results"][
        "bad_files"
    ] == [str(bad)]
    with pytest.raises(ValueError, match=r"1 of 24 images .*07\.png"):
        pretrain.pretrain(
            str(folder), str(tmp_path / "b"), channels=1, **TINY | {"epochs": 2}
        )


def test_an_encoder_that_no_file_gives_back_is_told_at_the_start(tmp_path, caplog):
    def doubled(shape):
        inputs = keras.Input(shape)
        x = keras.layers.Lambda(lambda x: 2 * x)(inputs)
        return keras.Model(inputs, tiny_encoder(shape)(x))

    def stop():
        raise KeyboardInterrupt

    def start(**changes):
        given = TINY | {"epochs": 1, "on_accept": stop} | changes
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(images(), tmp_path / "run", **given)

    start(encoder=doubled)
    assert any("will not be read from its file" in line for line in caplog.messages)
    caplog.clear()
    start()
    assert not any("will not be read" in line for line in caplog.messages)

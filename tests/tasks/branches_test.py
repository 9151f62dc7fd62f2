"""An encoder of several views goes the way of any other, from images to a server."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tests.tasks import pretrain_test as small
from tfssl import models
from tfssl.tasks import evaluate, export, finetune, pretrain


def two_views(input_shape):
    groups = {"L": (0,), "ab": (1, 2)}
    networks = {}
    for view, group in groups.items():
        with keras.name_scope(view):
            networks[view] = small.tiny_encoder((*input_shape[:2], len(group)))
    return models.Branches(
        networks, groups, input_shape=input_shape, front=[models.Lab()]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Coloured image files in two folders, one a class."""
    root = tmp_path_factory.mktemp("colours")
    grey, labels = small.images(n=32)
    rng = np.random.default_rng(0)
    for i, (image, label) in enumerate(zip(grey, labels)):
        path = root / f"class_{label}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        colour = (image * rng.uniform(0.3, 1, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_png(colour).numpy())
    return str(root)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cmc", "predictive"])
def test_from_images_to_a_served_model(folder, tmp_path, method):
    out = str(tmp_path / "run")
    hparams = {"cmc": {"projection_dim": 8}, "predictive": {"decoder_hidden": 8}}
    settings = small.TINY | {
        "encoder": two_views,
        "method": method,
        "hparams": hparams[method],
        "recipe": "cmc_lab",
        "labels": "folders",
        "epochs": 1,
    }
    pretrain.pretrain(folder, out, **settings)
    encoder = tfssl.load(out)
    assert list(encoder.network.branches) == ["L", "ab"]
    assert encoder.output_shape == (None, 16)
    rows = evaluate.evaluate(
        out, data=folder, validation_fraction=0.5, labels="folders", verbose=0,
        budgets=("100%",), draws=1, baselines=("random_encoder",), probes=("knn",),
    )  # fmt: skip
    assert {row["features"] for row in rows} == {"pre-trained", "random encoder"}
    # It takes files of colour images, and is compared with Python in all its digits.
    path = export.export(out, str(tmp_path / "models"), check=True)
    served = tf.saved_model.load(path).signatures["serving_default"]
    file = tf.io.read_file(f"{folder}/class_0/0.png")
    features = served(encoded_images=file[tf.newaxis])["features"]
    pixels = encoder.preprocessing.apply(tf.io.decode_png(file, 3))[tf.newaxis]
    np.testing.assert_allclose(features, encoder(pixels), atol=1e-4)
    tuned = finetune.finetune(
        out, folder, out=str(tmp_path / "tuned"), validation_fraction=0.5, epochs=1,
        batch_size=8, warmup_epochs=0, verbose=0,
    )  # fmt: skip
    assert tuned is not None


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"encoder": "branches"}, r"Images of 1 channel\(s\) received for Lab"),
        (
            {},
            "CMC needs an encoder with a branch per view, but .* has none; take --enc",
        ),
        ({"recipe": "moco_v2"}, r"takes 1; choose a recipe with as many"),
        (
            {"encoder": "branches", "data": small.images, "recipe": "deepcluster"},
            r"takes images in \[0, 1\], but the recipe normalises them",
        ),
    ],
)
def test_what_cannot_be_parted_is_refused_before_anything_is_written(
    tmp_path, changes, sentence
):
    given = small.TINY | {"method": "cmc", "recipe": "cmc_lab", "hparams": {}} | changes
    grey = small.images()
    data = given.pop("data", None) and (np.repeat(grey[0], 3, axis=-1), grey[1])
    with pytest.raises(ValueError, match=sentence):
        pretrain.pretrain(data or grey, str(tmp_path / "run"), **given)
    assert not list(tmp_path.rglob("run.json"))

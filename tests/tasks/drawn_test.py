"""Pictures of what a method makes of images: BEiT's."""

import logging
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl import data, formats, methods, models
from tfssl.tasks import drawn, evaluate, pretrain, runs

_TINY = dict(dim=8, depth=1, heads=2, patch=4, pooling="mean")


def tokenizer():
    network = models.Tokenizer(
        vocabulary=6, downsampling=2, width=8, blocks=1, decoder_width=8, channels=1
    )
    return formats.Encoder(network, data.Preprocessing(size=8, channels=1))


def trained(out, **changes):
    given = dict(
        method="beit",
        teacher=tokenizer(),
        encoder="vit_tiny_4",
        encoder_args=_TINY,
        recipe="beit_cifar10",
        image_size=8,
        epochs=1,
        warmup_epochs=0,
        batch_size=8,
        verbose=0,
    )
    return pretrain.pretrain(small.images()[0], str(out), **given | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = small.images(seed=1)[0]
    return trained(tmp_path_factory.mktemp("beit"), validation_data=images)


def test_a_run_draws_what_was_guessed_of_images_that_did_not_train(run):
    path = os.path.join(run.path, drawn.PICTURES)
    pixels = tf.io.decode_png(tf.io.read_file(path)).numpy()
    # Two rows of eight stacks of four, two pixels apart.
    assert pixels.shape == (2 * 4 * 10, 8 * 10, 1)
    image = small.images(seed=1)[0][0]
    np.testing.assert_allclose(pixels[:8, :8], image, atol=1)
    seen = pixels[10:18, :8].astype(int)
    hidden = (seen == 128).all(axis=-1)
    assert hidden.any()
    np.testing.assert_allclose(seen[~hidden], image[~hidden], atol=1)


def test_the_guessed_image_is_right_where_nothing_is_hidden(run):
    method = run.method
    images = tf.constant(small.images(seed=1)[0][:4] / np.float32(255))
    images = run.encoder.preprocessing.normalize(images)
    found = method.pictures(images)
    assert found.shape == (4, 4, 8, 8, 1)
    mask = method.mask(tf.range(4), (2, 2)).numpy().repeat(4, 1).repeat(4, 2)
    tokens = method.tokens(images)
    right = tf.image.resize(
        method.teacher.network.images(tokens), [8, 8], "nearest"
    ).numpy()
    np.testing.assert_allclose(found[:, 3], right, atol=1e-6)
    assert (found[:, 1][mask] == 0.5).all()


def test_the_report_of_the_run_shows_it(run):
    evaluate.evaluate(
        run.path,
        data=small.images(),
        validation_data=small.images(seed=1),
        budgets=("100%",),
        draws=1,
        baselines=(),
        probes=("knn",),
        verbose=0,
    )
    with open(os.path.join(run.path, "report.html")) as page:
        assert methods.BEiT.pictured in page.read()


def test_a_picture_that_fails_ends_no_training(tmp_path, monkeypatch, caplog):
    def fails(self, images):
        raise RuntimeError("no memory")

    monkeypatch.setattr(methods.BEiT, "pictures", fails)
    with caplog.at_level(logging.WARNING):
        run = trained(tmp_path)
    assert "pictures.png failed (no memory)" in caplog.text
    assert os.path.exists(os.path.join(run.path, runs.ENCODER))
    assert drawn.sheets(run.path, "beit") == {}

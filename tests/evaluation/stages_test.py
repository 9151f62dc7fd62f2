import math

import keras
import numpy as np
import pytest

from tfssl import data, models
from tfssl.evaluation import features, stages


def small_encoder():
    encoder = models.encoder("resnet18", input_shape=(32, 32, 3), width=1 / 16)
    outputs = encoder.pyramid_outputs
    encoder.stage_outputs = {"res2": outputs["P2"], "res5": outputs["P5"]}
    return encoder


def test_any_size_is_the_encoder_up_to_the_stage():
    encoder = small_encoder()
    rng = np.random.default_rng(0)
    for variable in encoder.variables:  # Norms of 0 and 1 would hide mistakes.
        variable.assign(rng.normal(0.5, 0.1, variable.shape))
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    part = stages.any_size(encoder, "res5")
    maps = part(images, training=False)
    assert maps.shape == (2, 1, 1, 32)
    np.testing.assert_allclose(
        np.mean(maps, axis=(1, 2)), encoder(images, training=False), rtol=1e-5
    )
    # Another size: the part of the map that sees no border of the image is the same.
    large = rng.normal(size=(1, 64, 96, 3)).astype(np.float32)
    assert part(large, training=False).shape == (1, 2, 3, 32)
    assert stages.any_size(encoder, "res2").output_shape == (None, None, None, 4)
    # No weights of its own, and the encoder can still be copied.
    assert {id(v) for v in part.variables} <= {id(v) for v in encoder.variables}
    again = type(encoder).from_config(encoder.get_config())
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(images), encoder(images))


def test_an_encoder_of_some_sizes_is_not_made_for_any():
    vit = models.ViT(8, depth=1, heads=1, patch=4, input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="'vit' .ViT. takes images of some sizes only"):
        stages.any_size(vit, "block1")


def test_names_and_what_is_no_stage():
    encoder = small_encoder()
    assert stages.names(encoder) == ("res2", "res5")
    with pytest.raises(ValueError, match="'conv9' received, but .* are res2, res5"):
        stages.check(encoder, ["res2", "conv9"])
    bare = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="Sequential.* names no stages"):
        stages.names(bare)


@pytest.mark.parametrize(
    "shape, limit, expected",
    [
        # AlexNet and ResNet-50 at 224 pixels: the papers' 9,600, 9,216 … features.
        ((55, 55, 96), 10_000, (10, 10)),
        ((27, 27, 256), 10_000, (6, 6)),
        ((13, 13, 384), 10_000, (5, 5)),
        ((13, 13, 256), 10_000, (6, 6)),
        ((112, 112, 64), 10_000, (12, 12)),
        ((56, 56, 256), 10_000, (6, 6)),
        ((28, 28, 512), 10_000, (4, 4)),
        ((14, 14, 1024), 10_000, (3, 3)),
        ((7, 7, 2048), 10_000, (2, 2)),
        ((4, 4, 8), 10_000, (4, 4)),  # Small enough as it is.
        ((4, 4, 8), 128, (4, 4)),
        ((4, 4, 8), 127, (3, 3)),
        ((2, 50, 10), 100, (2, 5)),
        ((3, 3, 500), 100, (1, 1)),
    ],
)
def test_the_pooled_size_is_the_largest_within_the_limit(shape, limit, expected):
    assert stages.pooled_size(*shape, limit) == expected


@pytest.mark.parametrize("sides", [(6, 6), (7, 5), (13, 4), (4, 4)])
def test_pooling_takes_means_of_windows_that_cover_the_map(sides):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, *sides, 3)).astype(np.float32)
    size = (min(4, sides[0]), 3)
    expected = np.zeros((2, *size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = (math.floor(k * n / s) for k, n, s in
                         zip((i, j), sides, size))  # fmt: skip
            bottom, right = (math.ceil((k + 1) * n / s) for k, n, s in
                             zip((i, j), sides, size))  # fmt: skip
            expected[:, i, j] = maps[:, top:bottom, left:right].mean(axis=(1, 2))
    found = stages.pool(maps, size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert stages.pool(maps.astype(np.float16), size).dtype == "float32"


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: models.encoder(
            "alexnet", input_shape=(20, 20, 3), stem="cifar", width=1 / 16
        ),
        lambda: models.encoder("vgg16", input_shape=(32, 32, 3), width=1 / 16),
        lambda: models.encoder("resnet18", input_shape=(24, 24, 3), width=1 / 16),
        lambda: models.encoder("resnet18", input_shape=(None, None, 3), width=1 / 16),
    ],
)
def test_every_stage_pooled_is_the_mean_of_its_map(encoder):
    encoder = encoder()
    shape = [side or 24 for side in encoder.input_shape[1:]]
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    for stage in stages.names(encoder):
        whole = keras.Model(encoder.inputs[0], encoder.stage_outputs[stage])
        maps = whole(images, training=False).numpy()
        limit = 4 * maps.shape[-1]
        model = stages.pooled(encoder, stage, limit)
        found = model(images, training=False).numpy()
        size = stages.pooled_size(*maps.shape[1:], limit)
        assert found.shape == (3, size[0] * size[1] * maps.shape[-1])
        assert found.shape[1] <= limit
        np.testing.assert_allclose(
            found, stages.pool(maps, size).numpy().reshape(3, -1), atol=1e-5
        )
        channels = found.reshape(3, *size, -1)
        if maps.shape[1] % size[0] == 0 and maps.shape[2] % size[1] == 0:
            np.testing.assert_allclose(
                channels.mean((1, 2)), maps.mean((1, 2)), atol=1e-4
            )
        # And as the evaluation reads it, batch by batch.
        source = data.open_source(np.zeros((3, 24, 24, 3), np.uint8))
        plain = data.Preprocessing(size=encoder.input_shape[1] or 24)
        rows = features.extract(model, data.labeled(source, plain, batch_size=2))
        assert rows.values.shape == found.shape


def test_what_cannot_be_pooled():
    encoder = small_encoder()
    with pytest.raises(ValueError, match="'conv9' received, but .* are res2, res5"):
        stages.pooled(encoder, "conv9")
    with pytest.raises(ValueError, match="limit=0 received for a pooled stage"):
        stages.pooled(encoder, "res2", 0)

import keras
import numpy as np
import pytest

from tfssl import models
from tfssl.evaluation import stages


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


def test_names_and_what_is_no_stage():
    encoder = small_encoder()
    assert stages.names(encoder) == ("res2", "res5")
    with pytest.raises(ValueError, match="'conv9' received, but .* are res2, res5"):
        stages.check(encoder, ["res2", "conv9"])
    bare = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="Sequential.* names no stages"):
        stages.names(bare)

"""The encoders that the repository publishes are exports of today's code."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfssl.formats import serving, signatures
from tfssl.tasks import runs

_FOLDER = pathlib.Path(__file__).parents[2] / "savedmodels"
_MODELS = sorted(path for path in _FOLDER.iterdir() if path.is_dir())


def _outputs(function):
    given = function.structured_outputs
    return {name: (x.dtype, x.shape.as_list()) for name, x in given.items()}


@pytest.mark.parametrize("folder", _MODELS, ids=lambda path: path.name)
def test_signatures_and_card_are_those_of_today(folder):
    version = folder / str(serving.versions(folder)[-1])
    served = tf.saved_model.load(str(version)).signatures
    encoder = runs.load(version)
    today = signatures.signatures(encoder.network, encoder.preprocessing)
    assert set(served) == set(today)
    for name, (function, spec) in today.items():
        (taken,) = served[name].structured_input_signature[1].values()
        assert taken == spec
        traced = tf.function(function, autograph=False).get_concrete_function(spec)
        assert _outputs(served[name]) == _outputs(traced)

    size, channels = encoder.preprocessing.size, encoder.preprocessing.channels
    image = np.random.default_rng(0).integers(0, 256, (size, size, channels), np.uint8)
    file = tf.io.encode_png(image).numpy()
    answer = served["serving_default"](tf.constant([b"no image", file]))
    assert answer["valid"].numpy().tolist() == [False, True]
    expected = encoder(encoder.preprocessing.apply(image)[tf.newaxis], training=False)
    np.testing.assert_allclose(answer["features"][1:], expected, atol=1e-5)
    assert (folder / "README.md").read_text() == serving.card_of(folder)
    assert os.path.exists(version / serving.ENCODER)

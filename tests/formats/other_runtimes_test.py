"""What docs/serving.md says of other runtimes and was tried: LiteRT."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.classifiers import classifier
from tests.fixtures.networks import ours
from tfssl import formats


def _converted(path, signature):
    converter = tf.lite.TFLiteConverter.from_saved_model(
        path, signature_keys=[signature]
    )
    return converter.convert()


@pytest.mark.filterwarnings("ignore")  # Its interpreter is said to move.
def test_litert_gives_what_the_encoder_gives(tmp_path):
    made = classifier(make=ours)
    path = formats.saved_model(made, tmp_path / "m")
    interpreter = tf.lite.Interpreter(model_content=_converted(path, "float_images"))
    answer = interpreter.get_signature_runner("float_images")
    for count in (1, 3):
        images = np.random.default_rng(0).normal(size=(count, 8, 8, 3))
        images = images.astype(np.float32)
        found = answer(images=images)
        features = made.network(images, training=False)
        np.testing.assert_allclose(found["features"], features, atol=1e-5)
        np.testing.assert_allclose(found["logits"], made(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_litert_refuses_what_the_page_says_it_refuses(tmp_path):
    path = formats.saved_model(classifier(), tmp_path / "m")
    with pytest.raises(Exception, match="TensorSliceDataset"):
        _converted(path, "serving_default")
    half = functools.partial(ours, dtype="mixed_bfloat16")
    path = formats.saved_model(classifier(make=half), tmp_path / "half")
    with pytest.raises(Exception, match="bf16"):
        _converted(path, "float_images")

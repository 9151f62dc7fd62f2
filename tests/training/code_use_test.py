import keras
import numpy as np
import pytest

from tests.methods.cases import BATCH, batches, make, tiny_tokenizer
from tfssl.training import code_use, monitors

IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype("float32")


def watched(stop=False):
    method = make("dvae")
    watch = code_use.CodeUse(IMAGES, after_steps=0, stop=stop)
    watch.set_model(method)
    watch.on_train_begin()
    return method, watch


def test_numbers_are_those_of_what_leaves_the_training():
    method, watch = watched()
    logs = {}
    watch.on_epoch_end(0, logs)
    tokenizer, _ = method.product()
    tokens = np.array(tokenizer.tokens(IMAGES))
    error = np.square(np.array(tokenizer.images(tokens)) - IMAGES).mean()
    assert logs["image_error"] == pytest.approx(error, rel=1e-5)
    _, counts = np.unique(tokens, return_counts=True)
    shares = counts / counts.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert logs["image_perplexity"] == pytest.approx(expected)


def test_one_code_for_all_raises_the_alarm():
    method, watch = watched(stop=True)
    tokenizer, _ = method.product()
    tokenizer.encoder.layers[-1].kernel.assign(
        keras.ops.zeros_like(tokenizer.encoder.layers[-1].kernel)
    )
    with pytest.raises(monitors.TrainingStopped, match="has collapsed: 1.00 of its"):
        watch.on_epoch_end(0, {})
    assert next(iter(batches("dvae", 1).batch(BATCH)))  # The case is still fed.
    assert tiny_tokenizer().perplexity is None

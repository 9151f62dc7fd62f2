import types

import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import features
from tfssl.training import validation


def test_losses_are_computed_for_some_images_at_a_time(monkeypatch):
    """Of 20,000 classes those of all images take several times their logits."""
    monkeypatch.setattr(features, "_ROWS", 4)
    logits = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    labels = np.arange(10) % 3
    seen = []

    def label_losses(some, of_some):
        seen.append(len(some))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(of_some, some)

    callback = validation.Validation(None, labels)
    model = types.SimpleNamespace(label_losses=label_losses, multilabel=False)
    callback.set_model(model)
    index = np.arange(10)[::-1]
    found = features.Features(logits, labels[index], index)
    callback._extract = lambda test: found
    loss, accuracy = callback._scores()
    assert seen == [4, 4, 2]
    powers = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = powers[np.arange(10), labels[index]]
    assert loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert accuracy == (logits.argmax(axis=1) == labels[index]).mean()

"""What the loss and the scores of validation images are means of."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tfssl.training import pixel_validation


def test_an_image_without_a_class_has_no_loss():
    labels = np.array([[[0, 1]], [[255, 255]], [[1, 255]]])
    said = tf.constant([[[0, 0]], [[1, 1]], [[1, 0]]], tf.int64)
    losses = tf.constant([3.0, 0.0, 1.0])
    model = types.SimpleNamespace(
        num_classes=2, judged=lambda view: (view, said, losses)
    )
    batch = {"image": tf.constant(labels), "mask": tf.constant([True, True, True])}
    loss, found = pixel_validation.judge(model)([batch])
    assert loss == 2.0
    assert found.pixel_accuracy == pytest.approx(2 / 3)

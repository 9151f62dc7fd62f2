import keras
import numpy as np

from tfssl.methods import multicrop


def test_features_come_view_by_view_and_each_size_passes_once():
    passes = []

    class Spy(keras.layers.Layer):
        def call(self, images):
            passes.append(tuple(images.shape))
            return keras.ops.mean(images, axis=(1, 2))

    rng = np.random.default_rng(0)
    views = [
        rng.uniform(size=(3, size, size, 2)).astype("float32")
        for size in (8, 8, 4, 4, 4, 8)
    ]
    spy = Spy()
    found = multicrop.encode(lambda images, training: spy(images), views, True)
    expected = np.concatenate([view.mean(axis=(1, 2)) for view in views])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Views of one size that do not follow each other pass by themselves.
    assert passes == [(6, 8, 8, 2), (9, 4, 4, 2), (3, 8, 8, 2)]

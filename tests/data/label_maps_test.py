import numpy as np
import tensorflow as tf

from tfssl.data import label_maps


def test_the_largest_share_is_the_class_and_none_is_ignored():
    shares = [[1, 0, 0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0, 0, 0], [0.2, 0.2, 0]]
    found = label_maps.classes_of(tf.constant([shares], tf.float32))
    assert found.dtype == tf.int64
    np.testing.assert_array_equal(found, [[0, 2, 0, 255, 255]])

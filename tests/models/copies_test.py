import keras
import numpy as np
import pytest

from tests.fixtures.networks import ours, pixels
from tfssl.models import copies


def test_a_copy_is_the_same_and_goes_its_own_way():
    network = ours()
    copied = copies.copied(network)
    np.testing.assert_array_equal(copied(pixels()), network(pixels()))
    copied.trainable_variables[0].assign_add(copied.trainable_variables[0])
    assert np.abs(copied(pixels()) - network(pixels())).max() > 0


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_a_copy_computes_in_the_precision_that_is_asked_for(policy):
    other = {"float32": "mixed_bfloat16"}.get(policy, "float32")
    network = ours(dtype=other)
    copied = copies.copied(network, policy)
    assert {layer.dtype_policy.name for layer in copied.layers} == {policy}
    assert {v.dtype for v in copied.trainable_variables} == {"float32"}
    assert network.layers[1].dtype_policy.name == other
    np.testing.assert_allclose(
        np.array(copied(pixels()), np.float32), network(pixels()), rtol=0.1, atol=0.05
    )


class Unknown(keras.layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, x):
        return x


def test_what_cannot_be_copied_says_so():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, Unknown(3)(inputs), name="mine")
    with pytest.raises(ValueError, match="'mine' cannot be copied .*get_config"):
        copies.copied(network)

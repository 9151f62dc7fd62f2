import sys

import keras
import numpy as np
import pytest

from tests.fixtures import networks
from tfssl.models import copying


@pytest.mark.parametrize("kind", ["own", "sequential", "ours"])
def test_a_copy_is_equal_and_has_variables_of_its_own(kind):
    network = getattr(networks, kind)()
    copy = copying.copied(network, "a test")
    images = networks.pixels()
    np.testing.assert_array_equal(network(images), copy(images))
    before = np.array(copy(images))
    network.set_weights([w + 1 for w in network.get_weights()])
    np.testing.assert_array_equal(copy(images), before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_a_copy_computes_in_the_precision_that_is_asked_for(policy):
    other = {"float32": "mixed_bfloat16"}.get(policy, "float32")
    network = networks.ours(dtype=other)
    copied = copying.copied(network, "a test", policy)
    assert {layer.dtype_policy.name for layer in copied.layers} == {policy}
    assert {v.dtype for v in copied.trainable_variables} == {"float32"}
    assert network.layers[1].dtype_policy.name == other
    np.testing.assert_allclose(
        np.array(copied(networks.pixels()), np.float32),
        network(networks.pixels()),
        rtol=0.1,
        atol=0.05,
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
    with pytest.raises(
        ValueError, match="'mine' cannot be copied for a test .*get_config"
    ):
        copying.copied(network, "a test")


def test_what_no_file_gives_back_is_told(monkeypatch):
    inputs = keras.Input((4,))
    shouting = keras.layers.Lambda(lambda x: 2 * x)
    # A class of a script, which this process knows and no other.
    here = type("Here", (keras.layers.Dense,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Here", here, raising=False)
    for layer, reason in (
        (Unknown(3), "could not be deserialized"),
        (shouting, "a Python lambda"),
        (here(3), "could not be deserialized"),
    ):
        told = copying.unreadable(keras.Model(inputs, layer(inputs)))
        assert reason in told and "\n" not in told
    assert copying.unreadable(networks.ours()) is None

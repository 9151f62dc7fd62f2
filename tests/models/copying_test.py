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

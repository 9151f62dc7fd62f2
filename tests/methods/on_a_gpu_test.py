"""A step on a GPU that nothing compiles: the host starts operations and waits for none.

Told by TensorFlow's own list of kernels, without a GPU.
"""

import keras
import pytest
import tensorflow as tf

from tests.fixtures import cases_together, gpu_graphs
from tests.methods import cases
from tfssl import replicas

pytestmark = pytest.mark.skipif(
    not tf.test.is_built_with_cuda(), reason="this TensorFlow knows no GPU's kernels"
)

# What is known when a step begins, and waits for nothing that the step computes.
AT_ONCE = {
    # Which of two losses it is, by the number of the step.
    "local_aggregation": ["bool of Less for Switch"],
}


# One of each kind: of losses, of encoders, and of what is remembered.
FAST = (
    "beit",
    "cpc",
    "deepcluster_v2",
    "dino",
    "local_aggregation",
    "moco_v2_symmetric",
    "npid_nce",
    "segmentation",
    "swav",
)


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@cases_together.fast_for("name", FAST)
def test_a_step_brings_nothing_to_the_host(name, bfloat16, monkeypatch):
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "GPU")
    method = cases.make(name, jit_compile=False)
    spec = cases.batches(name, 1).batch(cases.BATCH, drop_remainder=True).element_spec
    step = tf.function(lambda batch: method.train_step(batch), autograph=False)
    found = gpu_graphs.brought_to_host(step.get_concrete_function(spec))
    assert found == AT_ONCE.get(name, [])


def test_a_mask_is_all_that_a_segmenter_brings():
    network = cases.tiny_segmenter(cases.tiny_transformer(), 3)
    mask = tf.function(network.mask, autograph=False)
    images = tf.TensorSpec((2, cases.SIZE, cases.SIZE, 3))
    found = gpu_graphs.brought_to_host(mask.get_concrete_function(images))
    assert found == ["int32 of ArgMax for Identity"]

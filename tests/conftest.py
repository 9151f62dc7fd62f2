"""Four logical CPU devices for every test, so that replicas can be compared."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# A test runs what XLA compiles a few times: to optimize it takes longer than that.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import tfssl  # noqa: F401  Before TensorFlow, which it sets up.

# isort: split
import keras
import pytest
import tensorflow as tf

from tfssl import internals
from tfssl.training import stalls

# A test that sends itself a signal must not end them all, however slow a monitor is.
stalls.BETWEEN_AFTER = float("inf")

# What is imported stays: no collection of garbage needs to go through it.
gc.collect()
gc.freeze()

_CPUS = 4
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * _CPUS,
)


@pytest.fixture
def mirrored():
    """`mirrored(n)` is a MirroredStrategy over `n` logical CPU devices."""

    def make(num_replicas):
        internals.part_collectives()
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num_replicas)])

    return make


@pytest.fixture(autouse=True, scope="module")
def collected():
    """A file of tests leaves no graph, and no random numbers of a strategy's."""
    yield
    keras.utils.clear_session(free_memory=False)
    gc.collect()

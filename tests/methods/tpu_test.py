"""Steps on a TPU of two cores, traced by TensorFlow's own code; none of them runs."""

import keras
import pytest

from tests.fixtures import cases_together, fake_tpu
from tests.methods import cases
from tests.methods import views_on_device_test as finished
from tfssl import replicas
from tfssl.training import strategy as strategies

# One of each kind: of what replicas exchange, of encoders, and of what is remembered.
FAST = ("beit", "deepcluster_v2", "moco_v3", "pirl_both", "simclr", "swav")


@pytest.fixture
def on_tpu(monkeypatch):
    """The strategy, taken for one of a TPU."""
    monkeypatch.setattr(replicas, "kind_of_devices", lambda strategy: "TPU")
    return fake_tpu.strategy(2)


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def trace(strategy, name, step="train_step", *, batches=None, **arguments):
    """Traces a step of a case, or as many as an execution has."""
    with strategy.scope():
        method = cases.make(name, **arguments)
        if batches is None:
            batches = cases.distributed(cases.batches(name), strategy)
        with fake_tpu.traced():
            method._loop_over(getattr(method, step))(iter(batches))


@cases_together.fast_for("name", FAST)
def test_a_training_step_is_traced(name, on_tpu):
    trace(on_tpu, name)


@cases_together.fast_for("name", ["simclr"])
def test_a_step_of_validation_is_traced(name, on_tpu):
    trace(on_tpu, name, "test_step")


@pytest.mark.parametrize("name", ["deepcluster_v2", "local_aggregation"])
def test_a_step_that_only_stores_is_traced(name, on_tpu):
    trace(on_tpu, name, "fill_step")


def test_steps_of_one_execution_are_traced(on_tpu):
    trace(on_tpu, "simclr", steps_per_execution=2)


def test_a_step_in_bfloat16_is_traced(on_tpu, bfloat16):
    trace(on_tpu, "simclr")


def test_a_step_that_finishes_its_views_is_traced(on_tpu):
    batches = strategies.distribute(on_tpu, finished.stream, 8)
    trace(on_tpu, "simclr", batches=batches, finish=finished.FINISH)

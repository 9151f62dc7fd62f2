"""Methods on batches whose views the device finishes."""

import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tfssl import data, methods
from tfssl.data import views
from tfssl.data.views import recipes
from tfssl.training import strategy as strategies

RECIPE = recipes.BYOL.scaled(cases.SIZE)
FINISH = views.finishing(RECIPE)


def stream(shard=(0, 1), augment_on="device"):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(24, 20, 20, 3)).astype(np.float32)
    source = data.open_source(images)
    return data.multiview(
        source, RECIPE, batch_size=8, shard=shard, augment_on=augment_on
    )


def trained(strategy=None, batches=None, finish=FINISH, **compiled):
    """The weights of a SimCLR after three steps."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        method = cases.make("simclr", finish=finish, **compiled)
    if batches is None:
        batches = strategies.distribute(strategy, stream, 8)
    method.fit(batches, steps_per_epoch=3, verbose=0)
    return [weight.numpy() for weight in method.encoder.trainable_variables]


def assert_near(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture(scope="module")
def of_the_host():
    return trained(batches=stream(augment_on="host"), finish=None)


@pytest.mark.parametrize("compiled", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_training_is_that_on_the_views_of_the_host(compiled, of_the_host):
    """Float images, of which nothing is rounded."""
    assert_near(trained(**compiled), of_the_host)


def test_each_replica_finishes_its_own_rows(mirrored, of_the_host, monkeypatch):
    assert_near(trained(mirrored(2)), of_the_host)
    # As on two GPUs, where it is compiled although the step is not.
    monkeypatch.setattr(methods.base.replicas, "kind_of_devices", lambda _: "GPU")
    assert_near(trained(mirrored(2)), of_the_host)


def test_finished_views_pass(of_the_host):
    assert_near(trained(batches=stream(augment_on="host")), of_the_host)


def test_views_that_nobody_finishes_are_refused():
    with pytest.raises(ValueError, match="not finished; pass finish="):
        trained(finish=None)

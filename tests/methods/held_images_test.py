"""Methods on images that lie on the device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tests.methods.views_on_device_test import assert_near
from tfssl import data, methods, replicas
from tfssl.data import views
from tfssl.data.views import recipes
from tfssl.training import strategy as strategies

RECIPE = recipes.MOCO_V2.scaled(cases.SIZE)


def source():
    images = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), np.uint8)
    return data.open_source(images)


def stream(shard=(0, 1), place="device", images=None):
    places = dict(augment_on=place, images_on=place)
    return data.multiview(
        images or source(), RECIPE, batch_size=8, shard=shard, **places
    )


def trained(strategy=None, place="device", **compiled):
    """The weights of a SimCLR after three steps."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        finish = views.finishing(RECIPE) if place == "device" else None
        method = cases.make("simclr", finish=finish, **compiled)
    if place == "device":
        method.hold_images(source())
        assert method.images_on == "device" and method.held_bytes == 24 * 20 * 20 * 3
    batches = strategies.distribute(strategy, lambda s: stream(s, place), 8)
    method.fit(batches, steps_per_epoch=3, verbose=0)
    return [weight.numpy() for weight in method.encoder.trainable_variables]


@pytest.fixture(scope="module")
def of_the_host():
    return trained(place="host")


@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"jit_compile": True},
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
        {"steps_per_execution": 3},
    ],
)
def test_training_is_that_on_the_views_of_the_host(compiled, of_the_host):
    assert_near(trained(**compiled), of_the_host)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_each_replica_has_images_of_its_own(
    jit_compile, mirrored, of_the_host, monkeypatch
):
    strategy = mirrored(2)
    assert_near(trained(strategy, jit_compile=jit_compile), of_the_host)
    held = strategy.experimental_local_results(
        replicas.copy_to_each(strategy, tf.constant([1, 2]))
    )
    assert [x.device[-1] for x in held] == ["0", "1"]
    # As on two GPUs, where it is compiled although the step is not.
    monkeypatch.setattr(methods.base.replicas, "kind_of_devices", lambda _: "GPU")
    assert_near(trained(strategy, jit_compile=jit_compile), of_the_host)


def test_other_images_count_from_the_next_fit_on():
    def losses(*held):
        method = cases.make(
            "simclr",
            finish=views.finishing(RECIPE),
            optimizer=keras.optimizers.SGD(0.0),
        )
        for images in held:
            method.hold_images(images)
            batches = stream(images=images)
            history = method.fit(batches, steps_per_epoch=1, verbose=0)
            yield history.history["loss"][0]

    other = data.open_source(source().stacked(tf.range(24)).numpy() // 2)
    before, after = losses(source(), other)
    (alone,) = losses(other)
    assert after == alone != before


def test_images_that_are_not_there_are_refused():
    method = cases.make("simclr", finish=views.finishing(RECIPE))
    with pytest.raises(ValueError, match=r"call hold_images\(source\)"):
        method.fit(stream(), steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match="pass finish="):
        cases.make("simclr").hold_images(source())
    with pytest.raises(ValueError, match="pass finish="):
        cases.make("simclr").fit(stream(), steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match="received a ndarray, expected a Source"):
        method.hold_images(np.zeros((24, 20, 20, 3), np.uint8))


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_images_of_another_source_are_refused(jit_compile):
    """A list of them too, whose numbers are there all the same."""
    method = cases.make(
        "simclr", finish=views.finishing(RECIPE), jit_compile=jit_compile
    )
    method.hold_images(source())
    for images in (source().subset(range(8, 24)), source().subset(range(24)[::-1])):
        with pytest.raises(ValueError, match="made of one source.*give hold_images"):
            method.fit(stream(images=images), steps_per_epoch=1, verbose=0)
    method.fit(stream(images=source()), steps_per_epoch=1, verbose=0)


def test_compiled_anew_to_make_no_views_it_holds_no_images():
    method = cases.make("simclr", finish=views.finishing(RECIPE))
    method.hold_images(source())
    method.compile(keras.optimizers.SGD(0.0))
    assert method.images_on == method.augment_on == "host" and not method.held_bytes

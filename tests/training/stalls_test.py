"""Input that never comes: a read of a named pipe to which nobody writes."""

import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tfssl import methods
from tfssl.data import service
from tfssl.training import checkpoint, saving, stalls

GOOD = 3  # Batches before the one that never comes.


@pytest.fixture
def pipe(tmp_path):
    """A named pipe; reads of it end when the test does, or threads would stay."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield str(path)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(stalls, "TELL_AFTER", 0.1)
    monkeypatch.setattr(stalls, "SIGNAL_AFTER", 0.1)
    monkeypatch.setattr(stalls, "SERVICE_PATIENCE", 0.1)
    monkeypatch.setattr(stalls, "_TICK", 0.05)


def batches(path):
    """Batches whose images need a file that is read for all but the first ones."""

    def batch(n):
        # With a path that is constant, TensorFlow reads it when the iterator is made.
        file = tf.gather([path, path], n % 2)
        read = lambda: tf.strings.length(tf.io.read_file(file))  # noqa: E731
        zero = tf.cond(n < GOOD, lambda: 0, read)
        images = tf.cast(zero, tf.float32) + tf.random.stateless_uniform(
            (8, 8, 8, 3), [n, n]
        )
        rows = 8 * n + tf.range(8, dtype=tf.int64)
        views = {"view_0": images, "view_1": 1 - images}
        return {"views": views, "index": rows, "position": rows}

    return tf.data.Dataset.range(100).map(batch).prefetch(2)


def method(**kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    made = methods.SimCLR(keras.Model(inputs, x), projection_dim=4)
    made.compile(keras.optimizers.SGD(0.01), **kwargs)
    return made


def train(model, dataset, folder, **options):
    saver = saving.Saver(str(folder))
    with saver.watching_signals(), stalls.watched(model, saver, **options):
        model.fit(dataset, steps_per_epoch=24, callbacks=[saver], verbose=0)


def send_when_waiting(model, kind):
    def send():
        while int(model.step.numpy()) < GOOD or model.waiting.number is None:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), kind)

    threading.Thread(target=send, daemon=True).start()


# Does not end on every machine: TensorFlow may go on waiting after it was cancelled.
@pytest.mark.slow
@pytest.mark.parametrize("replicas, per_call", [(1, 1), (1, 4), (2, 1)])
def test_a_signal_is_heard_while_input_does_not_come(
    tmp_path, pipe, mirrored, caplog, replicas, per_call
):
    strategy = mirrored(2) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = method(steps_per_execution=per_call)
    dataset = batches(pipe)
    if replicas > 1:
        dataset = strategy.experimental_distribute_dataset(dataset)
    send_when_waiting(model, signal.SIGTERM)
    with pytest.raises(stalls.InputLost) as caught:
        train(model, dataset, tmp_path)
    assert caught.value.code == 75
    assert caught.value.message == (
        f"SIGTERM while waiting for input: saved step {GOOD}; start again to continue."
    )
    assert (
        f"s; step {GOOD}." in caplog.text and "Waiting for input since" in caplog.text
    )
    # What was saved is the state after the last whole step.
    other = method()
    other.build_optimizer()
    checkpoint.restore(checkpoint.latest(str(tmp_path)), other)
    assert int(other.step.numpy()) == GOOD and int(other.position.numpy()) == 8 * GOOD
    straight = method()
    straight.fit(batches(pipe).take(GOOD), verbose=0)
    for a, b in zip(straight.encoder.weights, other.encoder.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # As above.
def test_a_data_service_that_stays_away_ends_the_wait(tmp_path, pipe):
    model = method()
    address = f"grpc://localhost:{processes.free_ports(1)[0]}"
    with pytest.raises(stalls.InputLost) as caught:
        train(model, batches(pipe), tmp_path, data_service=address)
    assert f"No data service answers at {address}" in caught.value.message
    assert checkpoint.latest(str(tmp_path)).endswith(f"checkpoint-{GOOD}")


def test_input_that_fails_costs_no_step(tmp_path):
    with pytest.raises(tf.errors.NotFoundError):
        train(method(), batches(str(tmp_path / "missing")), tmp_path)
    assert checkpoint.latest(str(tmp_path)).endswith(f"checkpoint-{GOOD}")


def test_which_errors_tell_of_a_lost_service():
    message = "Unknown iteration client id 7"
    assert "lost" in service.lost(tf.errors.NotFoundError(None, None, message))
    assert service.lost(tf.errors.InvalidArgumentError(None, None, "no image")) is None

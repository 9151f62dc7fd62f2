"""Input that never comes: an empty queue, and a read that hangs in the system.

TensorFlow can end the first wait, but not the second."""

import os
import signal
import sys
import threading
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tfssl import input_wait, methods
from tfssl.data import service
from tfssl.training import checkpoint, saving, stalls

GOOD = 3  # Batches before the one that never comes.


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(stalls, "TELL_AFTER", 0.1)
    monkeypatch.setattr(stalls, "SIGNAL_AFTER", 0.1)
    monkeypatch.setattr(stalls, "SERVICE_PATIENCE", 0.1)
    monkeypatch.setattr(stalls, "_TICK", 0.05)


def batches(wait):
    """Batches, `GOOD` of them, after which `wait()` gives a number or an error."""

    def batch(n):
        zero = tf.cond(n < GOOD, lambda: 0, wait)
        images = tf.cast(zero, tf.float32) + tf.random.stateless_uniform(
            (8, 8, 8, 3), [n, n]
        )
        rows = 8 * n + tf.range(8, dtype=tf.int64)
        views = {"view_0": images, "view_1": 1 - images}
        return {"views": views, "index": rows, "position": rows}

    return tf.data.Dataset.range(100).map(batch).prefetch(2)


@pytest.fixture
def empty():
    """Waits for an entry of a queue; it gets them when the test ends."""
    queue = tf.queue.FIFOQueue(1000, [tf.int32], shapes=[()])
    yield queue.dequeue
    queue.enqueue_many([[0] * 1000])


def reads(path):
    # With a path that is constant, TensorFlow reads it when the iterator is made.
    paths = tf.Variable([path])
    return lambda: tf.strings.length(tf.io.read_file(paths[0]))


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


def send_when_waiting(model, *kinds):
    def send():
        while int(model.step.numpy()) < GOOD or model.waiting.number is None:
            time.sleep(0.01)
        for seconds, kind in zip((0.3, 10), kinds):
            time.sleep(seconds)
            os.kill(os.getpid(), kind)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("replicas, per_call", [(1, 1), (1, 4), (2, 1)])
def test_a_signal_is_heard_while_input_does_not_come(
    tmp_path, empty, mirrored, caplog, replicas, per_call
):
    strategy = mirrored(2) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = method(steps_per_execution=per_call)
    dataset = batches(empty)
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
    with strategy.scope():
        straight = method()
    dataset = batches(lambda: 0).take(GOOD)
    if replicas > 1:
        dataset = strategy.experimental_distribute_dataset(dataset)
    straight.fit(dataset, verbose=0)
    for a, b in zip(straight.encoder.weights, other.encoder.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-7)


def test_a_data_service_that_stays_away_ends_the_wait(tmp_path, empty):
    model = method()
    address = f"grpc://localhost:{processes.free_ports(1)[0]}"
    with pytest.raises(stalls.InputLost) as caught:
        train(model, batches(empty), tmp_path, data_service=address)
    assert f"No data service answers at {address}" in caught.value.message
    assert checkpoint.latest(str(tmp_path)).endswith(f"checkpoint-{GOOD}")


@pytest.mark.parametrize(
    "where, kinds, code, told",
    [
        ("process", [signal.SIGTERM], 75, "SIGTERM while waiting for input: saved"),
        ("monitor", [signal.SIGTERM], 75, "SIGTERM between two steps: saved step 3;"),
        # A notebook stays, until it is killed.
        ("notebook", [signal.SIGINT, signal.SIGKILL], -9, "saved step 3; start again"),
    ],
)
def test_a_read_that_hangs_in_the_system(tmp_path, where, kinds, code, told):
    os.mkfifo(tmp_path / "pipe")  # Nobody writes to it.
    run = [sys.executable, "-m", "tests.fixtures.hung_input"]
    run += [str(tmp_path / "pipe"), str(tmp_path / "saved"), where]
    end = processes.Worker([*run, *(str(int(k)) for k in kinds)], os.environ).wait()
    assert end.code == code, end.stderr
    assert told in end.stderr and "Traceback" not in end.stderr
    assert ("restart Python" in end.stderr) == (where == "notebook")
    # What is killed leaves it behind.
    assert (tmp_path / "saved" / ".lock").exists() == (where == "notebook")
    model = method()
    model.build_optimizer()
    checkpoint.restore(checkpoint.latest(str(tmp_path / "saved")), model)
    assert int(model.step.numpy()) == GOOD and int(model.position.numpy()) == 8 * GOOD


@pytest.mark.parametrize("in_time", [True, False])
def test_what_comes_after_the_end_of_the_wait_is_not_learnt(in_time):
    wait, learnt = input_wait.InputWait(), tf.Variable(0.0)

    def end():
        wait.interrupt("Enough")

    @tf.function(autograph=False)
    def step():
        number = wait.ask()
        with tf.control_dependencies([number]):
            came = [] if in_time else [tf.py_function(end, [], [])]
        with tf.control_dependencies(came):
            arrived = wait.arrive(number)
        with tf.control_dependencies([arrived]):
            learnt.assign_add(1.0)

    if in_time:
        step()
        assert float(learnt) == 1 and wait.number is None
    else:
        with pytest.raises(input_wait.Interrupted, match="Enough"):
            with wait.interruptible(None):
                step()
        assert float(learnt) == 0


def test_input_that_fails_costs_no_step(tmp_path):
    with pytest.raises(tf.errors.NotFoundError):
        train(method(), batches(reads(str(tmp_path / "missing"))), tmp_path)
    assert checkpoint.latest(str(tmp_path)).endswith(f"checkpoint-{GOOD}")


@pytest.mark.parametrize(
    "message", ["Unknown iteration client id 7", "Dataset id 1001 not found"]
)
def test_which_errors_tell_of_a_lost_service(message):
    assert "lost" in service.lost(tf.errors.NotFoundError(None, None, message))
    assert service.lost(tf.errors.InvalidArgumentError(None, None, "no image")) is None


def test_a_state_that_is_being_saved_is_no_stall():
    """After a signal it may take minutes, and ends the training by itself."""
    waiting = types.SimpleNamespace(stepping=False, calls=3)
    saver = types.SimpleNamespace(workers=types.SimpleNamespace(count=2), saving=True)
    watcher = stalls._Watcher(types.SimpleNamespace(waiting=waiting), saver, [])
    watcher._signal = "SIGTERM"
    assert [watcher._between_steps(now) for now in (0.0, 100.0)] == [0.0, 0.0]
    saver.saving = False
    assert [watcher._between_steps(now) for now in (100.0, 140.0)] == [0.0, 40.0]

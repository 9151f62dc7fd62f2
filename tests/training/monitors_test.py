import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import methods
from tfssl.data import bad_files as bad_files_lib
from tfssl.training import monitors, saving
from tfssl.training import workers as workers_lib


def tiny_method(**kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    method = methods.SimCLR(keras.Model(inputs, x), projection_dim=4)
    method.compile(**{"optimizer": keras.optimizers.SGD(0.01)} | kwargs)
    return method


def batches(steps, value=None):
    rng = np.random.default_rng(0)
    views = {
        f"view_{i}": rng.uniform(size=(8 * steps, 8, 8, 3)).astype("float32")
        for i in range(2)
    }
    if value is not None:
        views["view_0"][8 * value :] = np.nan
    rows = np.arange(8 * steps)
    data = {"views": views, "index": rows, "position": rows}
    return tf.data.Dataset.from_tensor_slices(data).batch(8)


def labelled(n=40, seed=0):
    """Two classes, told apart by their colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.uniform(0, 0.2, size=(n, 8, 8, 3)).astype("float32")
    images[labels == 1, ..., 0] += 0.8
    return tf.data.Dataset.from_tensor_slices(
        {
            "image": images,
            "label": labels.astype("int64"),
            "index": np.arange(n),
            "mask": np.ones(n, bool),
        }
    ).batch(16)


def test_spread_of_known_embeddings():
    # The rows +-e_i are spread evenly: each coordinate has variance 1/dim.
    dim = 8
    rows = np.concatenate([np.eye(dim), -np.eye(dim)])
    std, rank = monitors.embedding_spread(rows)
    assert std == pytest.approx(1.0)
    assert rank == pytest.approx(dim)
    std, rank = monitors.embedding_spread(np.ones((16, dim)))
    assert std == pytest.approx(0.0, abs=1e-6)
    assert rank == 0.0
    # All on one line: rank 1.
    line = np.outer(np.where(np.arange(16) % 2, 1.0, -1.0), np.ones(dim))
    assert monitors.embedding_spread(line)[1] == pytest.approx(1.0)
    # Scale does not matter, zero rows do no harm.
    assert monitors.embedding_spread(1e3 * rows)[0] == pytest.approx(1.0)
    assert np.isfinite(monitors.embedding_spread(np.zeros((4, dim)))).all()
    rows[3] = np.inf
    with pytest.raises(ValueError, match="1 of 16 embeddings hold NaN or infinity"):
        monitors.embedding_spread(rows)


def test_collapse_alarm_rings_for_a_collapsed_model_only(caplog):
    # One colour each: even an untrained encoder tells them apart.
    colours = np.random.default_rng(0).uniform(-1, 1, size=(64, 1, 1, 3))
    images = np.broadcast_to(colours, (64, 8, 8, 3)).astype("float32")
    healthy = monitors.Collapse(images, after_steps=0)
    method = tiny_method()
    history = method.fit(batches(2), epochs=1, verbose=0, callbacks=[healthy])
    assert not healthy.collapsed
    assert history.history["embedding_std"][0] > 0.1

    dead = tiny_method()
    for variable in dead.projector.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    watch = monitors.Collapse(images, after_steps=2)
    dead.optimizer.learning_rate = 0.0
    history = dead.fit(batches(2), epochs=1, verbose=0, callbacks=[watch])
    assert watch.collapsed
    assert history.history["effective_rank"][0] == 0.0
    with pytest.raises(monitors.TrainingStopped, match="has collapsed: std 0.000"):
        dead.fit(
            batches(2),
            verbose=0,
            callbacks=[monitors.Collapse(images, after_steps=4, stop=True)],
        )


def test_the_images_of_a_pass_are_bounded():
    method = tiny_method()
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 3)).astype("float32")
    real, seen, found = method.embed, [], []

    def embed(images):
        seen.append(images.shape[0])
        return real(images)

    method.embed = embed
    for at_once in (10, 4):
        watch = monitors.Collapse(images, at_once=at_once)
        watch.set_model(method)
        watch.on_train_begin()
        logs = {}
        watch.on_epoch_end(0, logs)
        found.append(list(logs.values()))
    assert seen == [10, 4, 2]  # As they are traced.
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_non_finite_loss_stops_and_names_step_and_checkpoint():
    method = tiny_method()
    watch = monitors.NonFinite(lambda: "run/checkpoint-2")
    with pytest.raises(
        monitors.TrainingStopped,
        match=r"became nan at step 3; the last good checkpoint is run/checkpoint-2",
    ):
        method.fit(batches(5, value=2), verbose=0, callbacks=[watch])


def test_non_finite_weights_stop_at_an_epochs_end_and_are_never_saved(tmp_path):
    method = tiny_method()
    saver = saving.Saver(str(tmp_path))
    saver.set_model(method)
    saver.save()
    kernel = method.encoder.trainable_variables[0]
    kernel.assign(tf.fill(kernel.shape, np.nan))
    method.step.assign(7)
    sentence = r"weights \(.*kernel\) became NaN or infinite at step 7; the last good "
    sentence += r"checkpoint is .*checkpoint-0\. Lower the learning rate"
    with pytest.raises(monitors.TrainingStopped, match=sentence):
        saver.save()
    watch = monitors.NonFinite(lambda: "run/checkpoint-0")
    watch.set_model(method)
    with pytest.raises(monitors.TrainingStopped, match=sentence):
        watch.on_epoch_end(0)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0"]


def test_online_knn_reads_the_encoder_and_changes_nothing():
    method = tiny_method(optimizer=keras.optimizers.SGD(0.0))
    watch = monitors.OnlineKNN(labelled(), labelled(seed=1), every=2, epochs=3, k=3)
    before = [np.array(v) for v in method.encoder.variables]
    history = method.fit(batches(2).repeat(), epochs=3, steps_per_epoch=2, verbose=0)
    assert "knn_accuracy" not in history.history
    history = method.fit(
        batches(2).repeat(), epochs=3, steps_per_epoch=2, verbose=0, callbacks=[watch]
    )
    # Epochs 2 (every second) and 3 (the last).
    assert history.history["knn_accuracy"] == [1.0, 1.0]
    for a, b in zip(before, method.encoder.variables):
        np.testing.assert_array_equal(a, b)


def test_throughput():
    watch = monitors.Throughput(8)
    logs = tiny_method().fit(
        batches(3).repeat(), epochs=2, steps_per_epoch=3, verbose=0, callbacks=[watch]
    )
    assert min(logs.history["images_per_second"]) > 0
    assert 0 <= logs.history["input_wait_share"][1] <= 1


class Broken(keras.callbacks.Callback):
    """Fails where it is told to, and counts its calls."""

    def __init__(self, hook, error):
        super().__init__()
        self.hook, self.error, self.calls = hook, error, []

    def _called(self, hook):
        self.calls.append(hook)
        if hook == self.hook:
            raise self.error

    def on_train_begin(self, logs=None):
        self._called("begin")

    def on_train_batch_end(self, batch, logs=None):
        self._called("step")

    def on_epoch_end(self, epoch, logs=None):
        self._called("epoch")
        logs["mine"] = 1.0


def test_a_monitor_that_works_asks_no_device():
    watched = monitors.Harmless(Broken(None, None))
    watched.set_model(types.SimpleNamespace())  # It has no step to read.
    watched.on_train_begin()
    watched.on_train_batch_end(0)
    watched.on_epoch_end(0, {})
    assert watched.monitor.calls == ["begin", "step", "epoch"]


@pytest.mark.parametrize(
    "hook, calls",
    [
        ("begin", ["begin"]),
        ("step", ["begin", "step"]),
        ("epoch", ["begin", "step", "step", "epoch", "step", "step", "epoch"]),
        (None, ["begin", "step", "step", "epoch", "step", "step", "epoch"]),
    ],
)
def test_an_error_of_a_monitor_costs_no_training(hook, calls, caplog):
    broken = Broken(hook, np.linalg.LinAlgError("SVD did not converge\nat all"))
    method = tiny_method()
    history = method.fit(
        batches(2).repeat(),
        epochs=2,
        steps_per_epoch=2,
        verbose=0,
        callbacks=[monitors.Harmless(broken)],
    )
    assert int(method.step.numpy()) == 4
    assert broken.calls == calls
    assert history.history.get("mine") == (None if hook else [1.0, 1.0])
    told = [m for m in caplog.messages if "Training goes on" in m]
    assert len(told) == calls.count(hook)
    for message in told:
        assert message.startswith("Broken at step ")
        assert "failed (SVD did not converge)." in message


@pytest.mark.parametrize(
    "error",
    [monitors.TrainingStopped("enough"), workers_lib.WorkerLost("gone")],
    ids=["stopped", "lost"],
)
def test_what_is_to_end_the_training_still_does(error):
    with pytest.raises(type(error)):
        tiny_method().fit(
            batches(1),
            verbose=0,
            callbacks=[monitors.Harmless(Broken("epoch", error))],
        )


def test_too_many_unreadable_files_are_told_without_the_graphs_traceback(caplog):
    bad_files = bad_files_lib.BadFiles()
    bad_files.error = "3 of 20 images could not be read"
    error = tf.errors.UnknownError(None, None, "Traceback: many lines")
    watch = monitors.Harmless(Broken("epoch", error), bad_files=[bad_files])
    tiny_method().fit(batches(1), verbose=0, callbacks=[watch])
    assert "failed (3 of 20 images could not be read). Training" in caplog.text


def test_waiting_for_slow_input_is_seen():
    def slow(batch):
        seconds = tf.py_function(
            lambda: __import__("time").sleep(0.05) or 0.0, [], "float32"
        )
        with tf.control_dependencies([seconds]):
            return tf.nest.map_structure(tf.identity, batch)

    def share(dataset):
        watch = monitors.Throughput(8)
        logs = tiny_method().fit(
            dataset, epochs=1, steps_per_epoch=8, verbose=0, callbacks=[watch]
        )
        return logs.history["input_wait_share"][0]

    assert share(batches(2).repeat().map(slow)) > 0.5
    assert share(batches(2).cache().repeat().prefetch(8)) < 0.5

"""Callbacks of the user's, where Keras's `fit` is called several times."""

import keras
import pytest

from tests.tasks import pretrain_test as small
from tests.tasks.clustering_test import CASES
from tfssl import files
from tfssl.tasks import pretrain
from tfssl.training import history


class Counting(keras.callbacks.Callback):
    """Counts its calls; may be killed in a step."""

    def __init__(self, killed_in=None):
        super().__init__()
        self.killed_in, self.calls, self.last = killed_in, [], None

    def on_train_begin(self, logs=None):
        self.calls.append(("begin", self.params["epochs"]))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch", epoch))

    def on_train_batch_begin(self, batch, logs=None):
        if self.killed_in == int(self.model.step.numpy()):
            raise KeyboardInterrupt

    def on_train_end(self, logs=None):
        self.calls.append(("end", None))
        self.last = logs


def run(out, *callbacks, method="simclr", **changes):
    settings = small.TINY | CASES.get(method, {}) | changes
    return pretrain.pretrain(small.images(), str(out), callbacks=callbacks, **settings)


@pytest.mark.parametrize(
    "method", ["simclr", pytest.param("deepcluster", marks=pytest.mark.slow)]
)
def test_a_callback_stops_a_training_and_a_start_goes_on(method, tmp_path):
    never_better = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)
    table = keras.callbacks.CSVLogger(tmp_path / "epochs.csv")
    counting, out = Counting(), tmp_path / "run"
    stopped = run(out, never_better, table, counting, method=method, epochs=4)
    assert [line["epoch"] for line in stopped.history] == [1, 2]
    expected = [("begin", 4), ("epoch", 0), ("epoch", 1), ("end", None)]
    assert counting.calls == expected
    assert counting.last["embedding_std"] == stopped.history[-1]["embedding_std"]
    rows = (tmp_path / "epochs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1"]
    assert files.read_json(out / "run.json")["results"]["steps"] == 10
    assert len(run(out, method=method, epochs=4).history) == 4


def test_callbacks_that_take_weights_back_are_refused(tmp_path):
    best = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    with pytest.raises(ValueError, match="restore_best_weights=True. received, which"):
        run(tmp_path / "run", best)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_callback_that_draws_a_bar_bears_an_epoch_that_is_only_closed(
    tmp_path, monkeypatch
):
    """A run is stopped between the last step of an epoch and its line."""
    closed = history.History.on_epoch_end

    def stops(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(history.History, "on_epoch_end", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, epochs=2, checkpoint_steps=5)
    monkeypatch.setattr(history.History, "on_epoch_end", closed)
    counting = Counting()
    run(tmp_path, counting, keras.callbacks.ProgbarLogger(), epochs=2)
    epochs = [("epoch", epoch) for epoch in range(2)]
    assert counting.calls == [("begin", 2), *epochs, ("end", None)]


def test_of_an_epoch_that_goes_on_a_callback_sees_one_training(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(killed_in=4), epochs=3, checkpoint_steps=3)
    counting = Counting()
    run(tmp_path, counting, epochs=3, checkpoint_steps=3)
    epochs = [("epoch", epoch) for epoch in range(3)]
    assert counting.calls == [("begin", 3), *epochs, ("end", None)]

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.monitors_test import batches, tiny_method
from tfssl.training import history


def fitted(callback, epochs=2, start=0):
    method = tiny_method()
    method.step.assign(3 * start)
    method.fit(
        batches(3).repeat(),
        initial_epoch=start,
        epochs=epochs,
        steps_per_epoch=3,
        verbose=0,
        callbacks=[callback],
    )
    return callback


def test_a_line_per_epoch_and_a_resume_that_forgets_lost_ones(tmp_path):
    first = fitted(history.History(str(tmp_path), 3))
    lines = history.read(tmp_path / "metrics.jsonl")
    assert lines == first.lines
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["epoch"] for line in lines] == [1.0, 2.0]
    assert lines[0]["learning_rate"] == pytest.approx(0.01, rel=1e-6)
    assert {"loss", "contrastive_accuracy"} <= set(lines[0])

    # Killed after its log and before its checkpoint: the line of the lost epoch goes.
    again = history.History(str(tmp_path), 3, step=3)
    assert history.read(tmp_path / "metrics.jsonl") == lines[:1]
    assert again.closed(3) and not again.closed(6)
    fitted(again, start=1)
    text = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in text] == [3, 6]
    assert text[0] == json.dumps(lines[0])


def test_a_line_that_cannot_be_written_comes_with_the_next(tmp_path, caplog):
    class Disk(keras.callbacks.Callback):
        """Away at the end of the second epoch: a folder is in the place of the file."""

        def on_epoch_end(self, epoch, logs=None):
            path = tmp_path / "metrics.jsonl.part"
            path.mkdir() if epoch == 1 else path.is_dir() and path.rmdir()

    written = history.History(str(tmp_path), 3)
    tiny_method().fit(
        batches(3).repeat(),
        epochs=2,
        steps_per_epoch=3,
        verbose=0,
        callbacks=[Disk(), written],
    )
    assert len(history.read(written.path)) == 1 and len(written.lines) == 2
    assert caplog.text.count("metrics.jsonl could not be written") == 1
    (tmp_path / "metrics.jsonl.part").rmdir()
    fitted(written, epochs=3, start=2)
    assert [line["step"] for line in history.read(written.path)] == [3, 6, 9]


@pytest.mark.parametrize(
    "row",
    [
        b'{"step": 6, "epoch": 2.0, "lo',
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"6",
        b'{"step": "6", "epoch": 2.0}',
        b'{"epoch": 2.0}',
    ],
    ids=["cut", "empty", "no UTF-8", "deep", "number", "text", "no step"],
)
@pytest.mark.parametrize("place", ["last", "middle"])
def test_an_unreadable_line_is_named_and_left_out(tmp_path, caplog, row, place):
    good = [b'{"step": 3, "epoch": 1.0}', b'{"step": 9, "epoch": 3.0, "loss": NaN}']
    rows = [good[0], row, good[1]] if place == "middle" else [*good, row]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(rows))
    assert [line["step"] for line in history.read(path)] == [3, 9]
    number = 2 if place == "middle" else 3
    told = [f"Line {number} of {path} is unreadable and left out."] if row else []
    assert caplog.messages == told
    # The next start leaves a file that is whole.
    caplog.clear()
    again = history.History(str(tmp_path), 3, step=9)
    assert [line["step"] for line in again.lines] == [3, 9]
    caplog.clear()
    assert len(history.read(path)) == 2 and not caplog.messages


def test_a_file_that_is_not_there(tmp_path):
    assert history.read(tmp_path / "metrics.jsonl") == []
    history.History(str(tmp_path), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss, expected", [(2.0, 0.5), (None, None)])
def test_what_a_method_knows_of_an_epoch_joins_its_logs(loss, expected):
    model = types.SimpleNamespace(
        epoch_numbers=lambda: {"clusters": 3.0},
        mutual_information=lambda loss, batch: loss and (batch - loss) / 12,
    )
    callback = history.EpochNumbers(8)
    callback.set_model(model)
    logs = {"loss": loss}
    callback.on_epoch_end(0, logs)
    added = {"clusters": 3.0} | ({"mutual_information": expected} if loss else {})
    assert logs == {"loss": loss} | added
    callback.on_epoch_end(0)  # Without logs there is nothing to add to.


def test_curves(tmp_path):
    fitted(history.Curves(str(tmp_path / "tensorboard")))
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            number = float(tf.make_ndarray(value.tensor))
            found.setdefault(value.tag, {})[event.step] = number
    assert set(found["loss"]) == {3, 6}
    assert found["learning_rate"] == pytest.approx({3: 0.01, 6: 0.01}, rel=1e-6)
    assert np.isfinite(list(found["loss"].values())).all()

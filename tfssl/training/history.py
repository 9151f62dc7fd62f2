"""What an epoch leaves: a line of `metrics.jsonl`, and points of TensorBoard."""

import json
import os

import keras
import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.training import workers as workers_lib


class History(keras.callbacks.Callback):
    """One line of `metrics.jsonl` per epoch.

    Put it after all other callbacks. The line says that the epoch is closed: a training
    that resumes at the end of an epoch without one lets the monitors run first. Lines
    of steps after the restored one are removed, so the file tells one story. It is
    replaced as a whole: a line that could not be written comes with the next.

    Args:
        folder: the run's folder.
        steps_per_epoch: int.
        step: int, where training starts.
        workers: `workers.Workers`; the chief writes.

    Attributes:
        lines: list of dicts, those of the file.
    """

    def __init__(self, folder, steps_per_epoch, *, step=0, workers=None):
        super().__init__()
        self.path = os.path.join(folder, "metrics.jsonl")
        self.steps_per_epoch = steps_per_epoch
        self.workers = workers or workers_lib.Workers()
        self.lines = [line for line in read(self.path) if line["step"] <= step]
        if tf.io.gfile.exists(self.path):
            self._write()

    def closed(self, step):
        """Whether the epoch that ends at this step has its line, on all workers."""
        (closed,) = self.workers.any(
            self.workers.is_chief and any(line["step"] == step for line in self.lines)
        )
        return closed

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.model.step.numpy())
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        line = {"step": step, "epoch": step / self.steps_per_epoch}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        self.lines.append(line | {"learning_rate": rate})
        self._write()

    def _write(self):
        if self.workers.is_chief:
            with files.failures_logged(self.path):
                text = "".join(json.dumps(line) + "\n" for line in self.lines)
                files.write_text(self.path, text)


class EpochNumbers(keras.callbacks.Callback):
    """Adds what a method knows of an epoch to its logs.

    Its own numbers, `Method.epoch_numbers`, and what its loss says of the information
    that a pair shares, `Method.mutual_information`.

    Args:
        batch_size: int, images of a step.
    """

    def __init__(self, batch_size):
        super().__init__()
        self._batch_size = batch_size

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        logs.update(self.model.epoch_numbers())
        shared = self.model.mutual_information(logs["loss"], self._batch_size)
        if shared is not None:
            logs["mutual_information"] = shared


class Curves(keras.callbacks.Callback):
    """The logs of every epoch as TensorBoard's curves.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            with tf.device(files.cpu_here()):
                self._writer = tf.summary.create_file_writer(self.folder)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        with self._writer.as_default(step=int(self.model.step.numpy())):
            for name, value in ((logs or {}) | {"learning_rate": rate}).items():
                tf.summary.scalar(name, value)
        self._writer.flush()


def read(path):
    """The lines of a `metrics.jsonl`, as dicts; empty if there is none.

    A line that cannot be read (a disk was full, a file was edited) is left out with a
    warning: the others do not depend on it.
    """
    path = os.fspath(path)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path, "rb") as file:
        rows = file.read().split(b"\n")
    lines = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        line = _parsed(row)
        if line is None:
            logging.warning("Line %d of %s is unreadable and left out.", number, path)
        else:
            lines.append(line)
    return lines


def _parsed(row):
    """The dict in a line, or None."""
    try:
        line = json.loads(row)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and all(
        isinstance(line.get(key), int | float) for key in ("step", "epoch")
    )
    return line if whole else None

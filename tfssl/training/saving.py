"""When a run saves: by epoch, by time, at its best kNN, and before it is killed."""

import contextlib
import os
import signal
import time

import keras
from absl import logging

from tfssl import files
from tfssl.training import checkpoint


class Preempted(SystemExit):
    """Raised after a SIGTERM, once the state is saved; the exit code is 75."""

    EXIT_CODE = 75  # EX_TEMPFAIL: start the same command again.

    def __init__(self, message):
        super().__init__(self.EXIT_CODE)
        self.message = message


class Saver(keras.callbacks.Callback):
    """Saves checkpoints at the end of epochs, every so many steps or minutes.

    Args:
        folder: the run's checkpoint folder.
        every_epochs: int >= 1; the end of training always saves.
        every_steps: int or None, at multiples of it.
        every_minutes: float or None.
        keep: int >= 1, newest checkpoints that stay; the best by kNN stays too.
    """

    def __init__(
        self, folder, *, every_epochs=1, every_steps=None, every_minutes=None, keep=3
    ):
        super().__init__()
        self.folder = folder
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.best = files.read_json(self._best_path)
        self._saved_step = None
        self._last_step = 0
        self._saved_time = time.monotonic()
        self._terminated = False

    @property
    def _best_path(self):
        return os.path.join(self.folder, "best.json")

    @property
    def best_path(self):
        """Path of the checkpoint with the best kNN accuracy so far, or None."""
        name = (self.best or {}).get("checkpoint")
        return os.path.join(self.folder, name) if name else None

    def save(self):
        """Saves now, unless this step is saved already."""
        step = int(self.model.step.numpy())
        if step == self._saved_step:
            return
        path = checkpoint.save(
            self.folder, self.model, keep=self.keep, protect=(self.best_path,)
        )
        self._saved_step = step
        self._saved_time = time.monotonic()
        logging.info("Saved %s", path)

    @contextlib.contextmanager
    def watching_sigterm(self):
        """While open, SIGTERM makes the next step save and raise `Preempted`."""
        try:
            before = signal.signal(signal.SIGTERM, self._on_sigterm)
        except ValueError:  # Not the main thread: signals are not ours to take.
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_train_begin(self, logs=None):
        self._last_step = int(self.model.step.numpy())

    def on_train_end(self, logs=None):
        self.save()

    def _on_sigterm(self, signum, frame):
        self._terminated = True

    def on_train_batch_end(self, batch, logs=None):
        before, step = self._last_step, int(self.model.step.numpy())
        self._last_step = step
        if self._terminated:
            self.save()
            raise Preempted(f"SIGTERM: saved step {step}; start again to continue.")
        # Several steps may have passed, where one call runs several.
        every = self.every_steps
        due = every and step // every > before // every
        minutes = (time.monotonic() - self._saved_time) / 60
        if due or (self.every_minutes and minutes >= self.every_minutes):
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        accuracy = (logs or {}).get("knn_accuracy")
        better = accuracy is not None and accuracy > (self.best or {}).get("knn", -1)
        if better or (epoch + 1) % self.every_epochs == 0:
            self.save()
        if better:
            step = int(self.model.step.numpy())
            self.best = {"checkpoint": f"checkpoint-{step}", "knn": accuracy}
            files.write_json(self._best_path, self.best)


class ContinueEpoch(keras.callbacks.Callback):
    """Puts restored metrics back after `fit` has reset them for its first epoch.

    The mean loss of an interrupted epoch then covers the whole epoch.
    """

    def __init__(self):
        super().__init__()
        self._values = None

    def on_train_begin(self, logs=None):
        metrics = [v for m in self.model.metrics for v in m.variables]
        self._values = [(v, v.numpy()) for v in metrics]

    def on_epoch_begin(self, epoch, logs=None):
        for variable, value in self._values or ():
            variable.assign(value)
        self._values = None

"""When a run saves: every so often, at its best kNN, and before it ends."""

import contextlib
import os
import signal
import threading
import time

import keras
import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.training import checkpoint, due, monitors
from tfssl.training import workers as workers_lib


class Preempted(SystemExit):
    """Raised after a SIGTERM, once the state is saved; the exit code is 75."""

    EXIT_CODE = 75  # EX_TEMPFAIL: start the same command again.

    def __init__(self, message):
        super().__init__(self.EXIT_CODE)
        self.message = message


class Interrupted(KeyboardInterrupt):
    """Raised after Ctrl-C, once the state is saved; the binaries' exit code is 130."""


class Saver(keras.callbacks.Callback):
    """Saves checkpoints every so many steps or minutes, at the best kNN, at a signal.

    Put it after the monitors, whose state and values it stores. A checkpoint at the end
    of an epoch is written before they measure, so that nothing they do can cost it:
    a run that ends there has them measure when it resumes (`history.History.closed`).
    The end of training is the caller's to save, `save(required=True)`: `fit` may be
    called once per epoch.

    Args:
        folder: the run's checkpoint folder.
        every_steps: ints >= 1; saves at multiples of each of them.
        every_minutes: float or None.
        keep: int >= 1, newest checkpoints that stay; the best by kNN stays too.
        also: function without arguments -> dict of tensors to store beside the method
            (the online probe).
        workers: `workers.Workers`; the chief writes, and all stop at one step.
        lines: list of dicts, the history so far, as far as the best kNN is among it.
        saved_step: int, step of the checkpoint that training continues from, or None.

    A checkpoint that cannot be written (a full disk) is a warning, and training
    goes on to the next; one that is required, as after SIGTERM, must be written:
    else `checkpoint.SaveError`.

    Attributes:
        best: `{"checkpoint": name, "knn": accuracy}` of the best one, or None.
    """

    def __init__(
        self,
        folder,
        *,
        every_steps=(),
        every_minutes=None,
        keep=3,
        also=dict,
        workers=None,
        lines=(),
        saved_step=None,
        best_by="knn_accuracy",
    ):
        super().__init__()
        self.best_by = best_by
        self.best_name = best_by and best_by.removesuffix("_accuracy")
        self.folder = folder
        self.also = also
        self.workers = workers or workers_lib.Workers()
        self.every_minutes = every_minutes
        self.keep = keep
        self.best = self._best_of(lines)
        self._saved_step = saved_step
        self._due = due.Due(*every_steps)
        self._saved_time = time.monotonic()
        self._signals = set()
        self._saving = threading.Lock()  # A thread of `stalls` may save too.
        self._write_best()

    @property
    def saving(self):
        """Whether a checkpoint is being written just now."""
        return self._saving.locked()

    @property
    def best_path(self):
        """Path of the checkpoint with the best accuracy so far, or None."""
        return os.path.join(self.folder, self.best["checkpoint"]) if self.best else None

    def save(self, *, required=False):
        """Saves now, unless this step is saved already.

        Args:
            required: raise where it fails, instead of warning.

        Raises:
            checkpoint.SaveError: if it fails and is required.
            monitors.TrainingStopped: if the weights are not finite. They would take
                the place of good ones.
        """
        with self._saving:
            self._save(required)

    def _save(self, required):
        step = int(self.model.step.numpy())
        if step == self._saved_step:
            return
        monitors.check_weights(self.model, lambda: checkpoint.latest(self.folder))
        self._saved_time = time.monotonic()
        try:
            path = checkpoint.save(
                self.folder,
                self.model,
                keep=self.keep,
                protect=(self.best_path,),
                also=self.also(),
                workers=self.workers,
            )
        except checkpoint.SaveError as error:
            if required:
                raise
            logging.warning("%s Training goes on.", error)
            return
        self._saved_step = step
        logging.info("Saved %s", path)

    @contextlib.contextmanager
    def watching_signals(self):
        """While open, SIGTERM or Ctrl-C makes the next step save and end the training.

        `Preempted` or `Interrupted` is raised then. A second Ctrl-C raises
        `KeyboardInterrupt` at once.
        """
        handlers = {signal.SIGTERM: self._on_sigterm, signal.SIGINT: self._on_sigint}
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # As in a background job.
            del handlers[signal.SIGINT]
        before = {}
        try:
            for kind, handler in handlers.items():
                before[kind] = signal.signal(kind, handler)
        except ValueError:  # Not the main thread: signals are not ours to take.
            yield
            return
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def on_train_begin(self, logs=None):
        self._due.begin(self.model)

    def _on_sigterm(self, signum, frame):
        self._signals.add(signum)

    def _on_sigint(self, signum, frame):
        if signum in self._signals:
            raise KeyboardInterrupt
        self._signals.add(signum)
        # Not print, which may be at work in the code that the signal has interrupted.
        os.write(2, b"Ctrl-C: saving after this step; once more ends at once.\n")

    def on_train_batch_end(self, batch, logs=None):
        passed = any(self._due.after_batch(self.model))
        minutes = (time.monotonic() - self._saved_time) / 60
        late = self.every_minutes and minutes >= self.every_minutes
        # A signal reaches one worker, and clocks differ; all must do the same.
        terminated, interrupted, late = self.workers.any(
            signal.SIGTERM in self._signals,
            signal.SIGINT in self._signals,
            late and self.workers.is_chief,
        )
        if terminated or interrupted:
            self.save(required=True)
            step = int(self.model.step.numpy())
            told = f"saved step {step}; start again to continue."
            if terminated:
                raise Preempted(f"SIGTERM: {told}")
            raise Interrupted(f"Ctrl-C: {told}")
        if late or passed:
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        accuracy, name = (logs or {}).get(self.best_by), self.best_name
        if accuracy is None or (self.best and accuracy <= self.best[name]):
            return
        self.save()
        step = int(self.model.step.numpy())
        if step == self._saved_step:
            self.best = {"checkpoint": f"checkpoint-{step}", name: accuracy}
            self._write_best()

    def _best_of(self, lines):
        """The best of a history's epochs among the checkpoints that are there."""
        paths = checkpoint.all_checkpoints(self.folder)
        there, best = {os.path.basename(path) for path in paths}, None
        for line in lines:
            place, accuracy = f"checkpoint-{line['step']}", line.get(self.best_by)
            if accuracy is None or place not in there:
                continue
            if best is None or accuracy > best[self.best_name]:
                best = {"checkpoint": place, self.best_name: accuracy}
        return best

    def _write_best(self):
        path = os.path.join(self.folder, "best.json")
        if not self.workers.is_chief:
            return
        with files.failures_logged(path):
            if self.best:
                files.write_json(path, self.best)
            elif tf.io.gfile.exists(path):
                tf.io.gfile.remove(path)


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

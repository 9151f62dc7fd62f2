"""When a run saves: by epoch, by time, at its best kNN, and before it is killed."""

import contextlib
import os
import signal
import time

import keras
from absl import logging

from tfssl import files
from tfssl.training import checkpoint
from tfssl.training import workers as workers_lib


class Preempted(SystemExit):
    """Raised after a SIGTERM, once the state is saved; the exit code is 75."""

    EXIT_CODE = 75  # EX_TEMPFAIL: start the same command again.

    def __init__(self, message):
        super().__init__(self.EXIT_CODE)
        self.message = message


class Saver(keras.callbacks.Callback):
    """Saves checkpoints at the end of epochs, every so many steps or minutes.

    The end of training is the caller's to save, `save(required=True)`: `fit` may be
    called once per epoch.

    Args:
        folder: the run's checkpoint folder.
        every_epochs: int >= 1.
        every_steps: int or None, at multiples of it.
        every_minutes: float or None.
        keep: int >= 1, newest checkpoints that stay; the best by kNN stays too.
        also: function without arguments -> dict of tensors to store beside the method
            (the online probe).
        workers: `workers.Workers`; the chief writes, and all stop at one step.

    A checkpoint that cannot be written (a full disk) is a warning, and training
    goes on to the next; one that is required, as after SIGTERM, must be written:
    else `checkpoint.SaveError`.
    """

    def __init__(
        self,
        folder,
        *,
        every_epochs=1,
        every_steps=None,
        every_minutes=None,
        keep=3,
        also=dict,
        workers=None,
    ):
        super().__init__()
        self.folder = folder
        self.also = also
        self.workers = workers or workers_lib.Workers()
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.best = files.read_json_if_whole(self._best_path)
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

    def save(self, *, required=False):
        """Saves now, unless this step is saved already.

        Args:
            required: raise where it fails, instead of warning.

        Raises:
            checkpoint.SaveError: if it fails and is required.
        """
        step = int(self.model.step.numpy())
        if step == self._saved_step:
            return
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

    def _on_sigterm(self, signum, frame):
        self._terminated = True

    def on_train_batch_end(self, batch, logs=None):
        before, step = self._last_step, int(self.model.step.numpy())
        self._last_step = step
        minutes = (time.monotonic() - self._saved_time) / 60
        late = self.every_minutes and minutes >= self.every_minutes
        # A signal reaches one worker, and clocks differ; all must do the same.
        terminated, late = self.workers.any(
            self._terminated, late and self.workers.is_chief
        )
        if terminated:
            self.save(required=True)
            raise Preempted(f"SIGTERM: saved step {step}; start again to continue.")
        # Several steps may have passed, where one call runs several.
        every = self.every_steps
        if late or (every and step // every > before // every):
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        accuracy = (logs or {}).get("knn_accuracy")
        better = accuracy is not None and accuracy > (self.best or {}).get("knn", -1)
        if better or (epoch + 1) % self.every_epochs == 0:
            self.save()
        step = int(self.model.step.numpy())
        if better and step == self._saved_step:
            self.best = {"checkpoint": f"checkpoint-{step}", "knn": accuracy}
            if self.workers.is_chief:
                with files.failures_logged(self._best_path):
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

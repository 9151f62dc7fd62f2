"""What watches a run: collapse, non-finite numbers, kNN, throughput."""

import contextlib
import math
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import internals
from tfssl.data import bad_files as bad_files_lib
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import knn
from tfssl.training import workers as workers_lib

LARGEST_GRADIENT = "largest_gradient"  # In logs and checkpoints.


class TrainingStopped(RuntimeError):
    """Training that must not go on, with the reason and the last good state."""


def embedding_spread(embeddings):
    """How far embeddings are from collapse.

    Args:
        embeddings: float array `(n, dim)`, not necessarily normalized.

    Returns:
        `(std, rank)`: `std` is the mean standard deviation of the coordinates of
        the unit-norm rows, times `sqrt(dim)`: 1 for directions spread evenly, 0
        when all rows agree (Chen & He, 2021, section 4.1). `rank` is the
        effective rank, `exp(entropy of the normalized singular values)` (Roy &
        Vetterli, 2007) of the centred rows, between 1 and `min(n, dim)`; 0 if
        they are all the same.

    Raises:
        ValueError: for embeddings that are not finite.
    """
    x = np.asarray(embeddings, np.float64)
    bad = int((~np.isfinite(x).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(x)} embeddings hold NaN or infinity, expected finite ones: "
            "the encoder has diverged, or its numbers do not fit the precision."
        )
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    std = float(x.std(axis=0).mean() * math.sqrt(x.shape[1]))
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    total = singular.sum()
    if total < 1e-6 * math.sqrt(len(x)):
        return std, 0.0
    p = singular[singular > 0] / total
    return std, float(np.exp(-(p * np.log(p)).sum()))


@contextlib.contextmanager
def errors_logged(name, workers=None, bad_files=()):
    """Makes a warning of any error in what training can do without.

    What is raised to end the training (`TrainingStopped`), and the loss of a worker,
    passes through.

    Args:
        name: of what fails, the first words of the warning, or a function that gives
            them then.
        workers: `workers.Workers`. Where they work together, all must see the error, as
            `Workers.from_chief` has it.
        bad_files: the `BadFiles` of what is read, for the reason in the warning.
    """
    workers = workers or workers_lib.Workers()
    try:
        with workers.losses_explained(), bad_files_lib.explained(*bad_files):
            yield
    except (TrainingStopped, workers_lib.WorkerLost):
        raise
    except Exception as error:  # Whatever it is, the training is worth more.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
        name = name() if callable(name) else name
        logging.warning("%s failed (%s). Training goes on.", name, reason)
        logging.debug("%s", name, exc_info=True)


class Harmless(keras.callbacks.Callback):
    """A monitor whose errors are warnings, see `errors_logged`.

    One that fails at an epoch's end has its next turn; one that cannot begin, or fails
    in a step, is off until the next start.

    Args:
        monitor: a Keras callback.
        workers: see `errors_logged`.
        bad_files: see `errors_logged`.
    """

    def __init__(self, monitor, workers=None, bad_files=()):
        super().__init__()
        self.monitor = monitor
        self.workers = workers
        self.bad_files = bad_files
        self._off = False

    def set_model(self, model):
        super().set_model(model)
        self.monitor.set_model(model)

    def on_train_begin(self, logs=None):
        self._off = not self._run(self.monitor.on_train_begin, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._off = not self._run(self.monitor.on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._run(self.monitor.on_epoch_end, epoch, logs)

    def _run(self, hook, *args):
        """Calls a hook unless the monitor is off; whether it is still of use."""
        if self._off:
            return False

        def name():  # The device is asked for the step, which would wait for it.
            return f"{type(self.monitor).__name__} at step {self.model.step.numpy()}"

        done = False
        with errors_logged(name, self.workers, self.bad_files):
            hook(*args)
            done = True
        return done


class Collapse(keras.callbacks.Callback):
    """Warns when the embedding that the loss compares stops telling images apart.

    Adds `embedding_std` and `effective_rank` (see `embedding_spread`) of a fixed
    set of images to the logs of every epoch. Also warns of what the method itself says
    of an epoch's numbers (`Method.collapse`).

    Args:
        images: float array `(n, h, w, c)`, as the encoder takes them; 256 do.
        at_once: int, images of a pass.
        min_std: float, warn below this `embedding_std`.
        min_rank: float, warn below this `effective_rank`.
        after_steps: int, no alarm before: moving batch-norm statistics need some
            steps before inference mode shows what training sees.
        stop: bool, raise `TrainingStopped` instead of warning.
        workers: `workers.Workers`; the chief measures, all learn the result.
    """

    def __init__(
        self,
        images,
        *,
        at_once=256,
        min_std=0.03,
        min_rank=1.5,
        after_steps=100,
        stop=False,
        workers=None,
    ):
        super().__init__()
        self.workers = workers or workers_lib.Workers()
        self.images = tf.convert_to_tensor(images)
        self.at_once = at_once
        self.min_std = min_std
        self.min_rank = min_rank
        self.after_steps = after_steps
        self.stop = stop
        self.collapsed = False
        self._embed = None

    def on_train_begin(self, logs=None):
        if self._embed is None:  # Kept: a new one would be traced again.
            self._embed = internals.function(self.model.embed)

    def on_epoch_end(self, epoch, logs=None):
        std, rank = self.workers.from_chief(self._spread, size=2)
        if logs is not None:
            logs["embedding_std"] = std
            logs["effective_rank"] = rank
        step = int(self.model.step.numpy())
        if step < self.after_steps:
            return
        told = [self.model.collapse(logs)] if logs else []
        if std < self.min_std or rank < self.min_rank:
            told.insert(
                0,
                f"The embedding has collapsed: std {std:.3f} (1 is healthy, alarm "
                f"below {self.min_std}), effective rank {rank:.1f} (alarm below "
                f"{self.min_rank}) at step {step}. Lower the learning rate, warm up "
                "longer, or raise the temperature.",
            )
        for message in filter(None, told):
            self.collapsed = True
            if self.stop:
                raise TrainingStopped(message)
            logging.warning("%s", message)

    def _spread(self):
        parts = [
            self._embed(self.images[start : start + self.at_once])
            for start in range(0, len(self.images), self.at_once)
        ]
        return embedding_spread(np.concatenate(parts))


class LargestGradient(keras.callbacks.Callback):
    """Adds `largest_gradient`, the largest of an epoch's steps, to its logs.

    Args:
        watch: `Method.gradient_watch`.
    """

    def __init__(self, watch):
        super().__init__()
        self._watch = watch

    def variables(self):
        """What is saved beside the model: named tensors."""
        return {LARGEST_GRADIENT: tf.convert_to_tensor(self._watch.largest)}

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[LARGEST_GRADIENT] = float(self._watch.largest.numpy())


class NonFinite(keras.callbacks.Callback):
    """Stops at the first non-finite loss or weight, naming the step and a way back.

    Args:
        last_checkpoint: function without arguments -> path or None.
    """

    def __init__(self, last_checkpoint=lambda: None):
        super().__init__()
        self.last_checkpoint = last_checkpoint

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise _diverged(f"The loss became {loss}", self.model, self.last_checkpoint)

    def on_epoch_end(self, epoch, logs=None):
        check_weights(self.model, self.last_checkpoint)


def check_weights(model, last_checkpoint):
    """Raises `TrainingStopped` unless all that is learned is finite.

    Args:
        model: a `Method`.
        last_checkpoint: function without arguments -> path or None.
    """
    for variable in model.learned_variables:
        if not bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable)))):
            told = f"The weights ({variable.path}) became NaN or infinite"
            raise _diverged(told, model, last_checkpoint)


def _diverged(told, model, last_checkpoint):
    good = last_checkpoint()
    advice = f"the last good checkpoint is {good}" if good else "no checkpoint exists"
    return TrainingStopped(
        f"{told} at step {int(model.step.numpy())}; {advice}. Lower the learning rate, "
        "warm up longer, or train in float32."
    )


class OnlineKNN(keras.callbacks.Callback):
    """kNN accuracy of the encoder on a labelled set of its own, during training.

    Features are taken in inference mode; no weight is touched.

    Args:
        train: dataset of `data.labeled`, the bank.
        test: dataset of `data.labeled`, the queries.
        every: int, epochs between two evaluations (the last epoch is included).
        epochs: int, the number of the last epoch, or None.
        k: int, neighbours.
        temperature: float, of the vote.
        workers: `workers.Workers`; the chief measures, all learn the result.
    """

    def __init__(
        self,
        train,
        test,
        *,
        every=1,
        epochs=None,
        k=20,
        temperature=0.1,
        workers=None,
    ):
        super().__init__()
        self.workers = workers or workers_lib.Workers()
        self.train = train
        self.test = test
        self.every = every
        self.epochs = epochs
        self.k = k
        self.temperature = temperature
        self._extract = None

    def on_train_begin(self, logs=None):
        if self._extract is None:  # Kept: a new one would be traced again.
            self._extract = features_lib.Extractor(self.model.encoder)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        (accuracy,) = self.workers.from_chief(self._accuracy)
        if logs is not None:
            logs["knn_accuracy"] = accuracy

    def _accuracy(self):
        bank, queries = self._extract(self.train), self._extract(self.test)
        accuracy = knn.accuracy(
            bank,
            queries,
            k=min(self.k, len(bank.values)),
            temperature=self.temperature,
        )
        return (accuracy,)


class Throughput(keras.callbacks.Callback):
    """Images per second and the share of time that steps wait for their input.

    The first execution of a process, which traces the step, is left out.

    Args:
        batch_size: int, the global batch.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size
        self._traced = False
        self._begin = self._end = self._step = self._waited = None

    def _mark(self):
        self._begin = self._end = time.perf_counter()
        self._step = int(self.model.step.numpy())
        self._waited = float(self.model.input_wait.numpy())

    def on_epoch_begin(self, epoch, logs=None):
        self._mark()

    def on_train_batch_end(self, batch, logs=None):
        if not self._traced:
            self._traced = True
            self._mark()
        self._end = time.perf_counter()  # Saving, after the last step, is no training.

    def on_epoch_end(self, epoch, logs=None):
        steps = int(self.model.step.numpy()) - self._step
        waited = float(self.model.input_wait.numpy()) - self._waited
        seconds = self._end - self._begin
        if logs is not None and steps > 0 and seconds > 0:
            logs["images_per_second"] = steps * self.batch_size / seconds
            logs["input_wait_share"] = min(1.0, waited / seconds)

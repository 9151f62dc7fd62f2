"""The epochs of a run: from where it stands to its last, each closed by its line."""

import keras
import numpy as np

from tfssl import progress
from tfssl.training import saving


def fit(model, dataset, epochs, steps_per_epoch, callbacks, history, verbose, images):
    """`fit`, continuing an interrupted epoch with just its remaining steps.

    A method that acts between epochs trains epoch by epoch, each on images of its own.
    A callback that sets `model.stop_training` ends the training.

    Args:
        model: a compiled `Method`.
        dataset: function `sampling -> dataset` that starts at the model's position.
        epochs: int, the last epoch.
        steps_per_epoch: int.
        callbacks: Keras callbacks, in their order.
        history: `history.History`, which comes after them.
        verbose: 0 silent, 1 Keras's bar where a person watches, else as 2, 2 a line per
            epoch, and one every minute inside of a long one.
        images: `epoch_images.EpochImages`.
    """
    step = int(model.step.numpy())
    epoch, inside = divmod(step, steps_per_epoch)
    verbose = progress.of_fit(verbose)
    watchers = _Throughout([*callbacks, history], epochs)
    if epoch and not inside and not history.closed(step) and _has_means(model):
        _close(model, epoch - 1, watchers, steps=steps_per_epoch, verbose=verbose)
    lines = [_Lines(epochs)] if verbose == 2 else []
    while epoch < epochs and not model.stop_training:
        until = epoch + 1 if inside or model.acts_between_epochs else epochs
        if not inside or model.is_behind(epoch):
            model.before_epoch(epoch, images)
        model.fit(
            dataset(model.sampling(epoch, images.count)),
            initial_epoch=epoch,
            epochs=until,
            steps_per_epoch=steps_per_epoch - inside,
            callbacks=[
                *lines,
                watchers,
                *([saving.ContinueEpoch()] if inside else []),
            ],
            verbose=verbose,
            shuffle=False,
        )
        epoch, inside = until, 0
    watchers.end()


def check_callbacks(callbacks):
    """Raises `ValueError` for callbacks that change weights at the end of training."""
    for callback in callbacks or ():
        if getattr(callback, "restore_best_weights", False):
            raise ValueError(
                f"{type(callback).__name__}(restore_best_weights=True) received, which "
                "takes weights and counters back at the end and leaves the optimizer; "
                "leave it out: checkpoints/best.json names the checkpoint of the best "
                "epoch, where epochs are judged."
            )


class _Throughout(keras.callbacks.Callback):
    """Callbacks that begin and end once, however often `fit` is called.

    Keras's own begin anew: an `EarlyStopping` of single epochs would never stop.
    """

    def __init__(self, callbacks, epochs):
        super().__init__()
        self._callbacks, self._epochs = callbacks, epochs
        self._begun, self._logs = False, None

    def set_model(self, model):
        super().set_model(model)
        if not self._begun:
            for callback in self._callbacks:
                callback.set_model(model)

    def set_params(self, params):
        super().set_params(params | {"epochs": self._epochs})
        for callback in self._callbacks:
            callback.set_params(self.params)

    def on_train_begin(self, logs=None):
        if not self._begun:
            for callback in self._callbacks:
                callback.on_train_begin(logs)
        self._begun = True

    def on_epoch_begin(self, epoch, logs=None):
        for callback in self._callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        for callback in self._callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        self._logs = logs

    def end(self):
        """What `on_train_end` is of all calls of `fit` together."""
        if self._begun:
            for callback in self._callbacks:
                callback.on_train_end(self._logs)


class _Lines(keras.callbacks.Callback):
    """How far an epoch is, for logs."""

    def __init__(self, epochs):
        super().__init__()
        self._epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        self._lines = progress.Lines(
            total=self.params["steps"], desc=f"epoch {epoch + 1}/{self._epochs}"
        )

    def on_train_batch_end(self, batch, logs=None):
        self._lines.update(batch + 1 - self._lines.n)

    def on_epoch_end(self, epoch, logs=None):
        self._lines.close()


def _has_means(model):
    """Whether there are means of the epoch; none are of one whose length changed."""
    return any(np.any(v.numpy()) for m in model.metrics for v in m.variables)


def _close(model, epoch, watchers, **params):
    """What follows an epoch's last step, for a run that ended right after that step.

    All that the monitors measure is in the checkpoint: the weights, the means of the
    epoch, the online probe, the clusters.
    """
    hooks = keras.callbacks.CallbackList([watchers], model=model, **params)
    hooks.on_train_begin()
    hooks.on_epoch_begin(epoch)
    hooks.on_epoch_end(epoch, model.get_metrics_result())

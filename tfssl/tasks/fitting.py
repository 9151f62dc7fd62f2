"""The epochs of a run: from where it stands to its last, each closed by its line."""

import keras
import numpy as np

from tfssl import progress
from tfssl.training import saving


def fit(model, dataset, epochs, steps_per_epoch, callbacks, history, verbose, images):
    """`fit`, continuing an interrupted epoch with just its remaining steps.

    A method that acts between epochs trains epoch by epoch, each on images of its own.

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
    callbacks = [*callbacks, history]
    if epoch and not inside and not history.closed(step) and _has_means(model):
        _close(model, epoch - 1, callbacks)
    lines = [_Lines(epochs)] if verbose == 2 else []
    while epoch < epochs:
        until = epoch + 1 if inside or model.acts_between_epochs else epochs
        if not inside:
            model.before_epoch(epoch, images)
        model.fit(
            dataset(model.sampling(epoch, images.count)),
            initial_epoch=epoch,
            epochs=until,
            steps_per_epoch=steps_per_epoch - inside,
            callbacks=[
                *lines,
                *callbacks,
                *([saving.ContinueEpoch()] if inside else []),
            ],
            verbose=verbose,
            shuffle=False,
        )
        epoch, inside = until, 0


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


def _close(model, epoch, callbacks):
    """What follows an epoch's last step, for a run that ended right after that step.

    All that the monitors measure is in the checkpoint: the weights, the means of the
    epoch, the online probe, the clusters.
    """
    watchers = keras.callbacks.CallbackList(callbacks, model=model)
    watchers.on_train_begin()
    watchers.on_epoch_begin(epoch)
    watchers.on_epoch_end(epoch, model.get_metrics_result())

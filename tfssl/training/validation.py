"""How well a classifier does on images that never train, epoch by epoch."""

import keras
import numpy as np

from tfssl.evaluation import classification
from tfssl.evaluation import features as features_lib
from tfssl.training import workers as workers_lib


class Validation(keras.callbacks.Callback):
    """Loss and accuracy of a `methods.classification.Classification`.

    Adds `val_loss` to the logs, and `val_accuracy`, or with several classes an image
    `val_map`, the mean average precision. Weights are those that leave the training
    (the averaged ones, where there are any), in inference mode.

    Args:
        test: dataset of `data.labeled`.
        labels: the true classes by the number of an image in its source, as columns:
            int `(n,)` or, with several classes, `(n, classes)`.
        every: int, epochs between two evaluations (the last epoch is included).
        epochs: int, the number of the last epoch, or None.
        workers: `workers.Workers`; the chief measures, all learn the result.
    """

    def __init__(self, test, labels, *, every=1, epochs=None, workers=None):
        super().__init__()
        self.test = test
        self.labels = np.asarray(labels)
        self.every = every
        self.epochs = epochs
        self.workers = workers or workers_lib.Workers()
        self._extract = None

    def on_train_begin(self, logs=None):
        if self._extract is None:  # Kept: a new one would be traced again.
            self._extract = extractor(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        loss, score = self.workers.from_chief(self._scores, size=2)
        if logs is not None:
            logs["val_loss"] = loss
            logs[score_of(self.model.multilabel)] = score

    def _scores(self):
        found = self._extract(self.test)
        labels = self.labels[found.index]
        losses = features_lib.by_rows(self.model.label_losses, found.values, labels)
        if self.model.multilabel:
            score = classification.multi_label(found.values, labels).mean_ap
        else:
            score = float((found.values.argmax(axis=1) == labels).mean())
        return float(np.mean(losses)), score


def score_of(multilabel):
    """The name of the score in the logs."""
    return "val_map" if multilabel else "val_accuracy"


def extractor(model, *, progress=False):
    """`features.Extractor` of the logits of a `Classification`."""
    return features_lib.Extractor(
        lambda images, training: model.logits(images), progress=progress
    )

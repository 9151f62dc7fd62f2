"""How well a segmenter does on images that never train, epoch by epoch."""

import keras
import numpy as np

from tfssl import internals
from tfssl.data import label_maps
from tfssl.evaluation import segmentation
from tfssl.training import workers as workers_lib

SCORE = "val_mean_iou"


class PixelValidation(keras.callbacks.Callback):
    """Loss and scores of a `methods.Segmentation`.

    Adds `val_loss`, `val_mean_iou` and `val_pixel_accuracy` to the logs, of the pixels
    of all images together. Weights are those that leave the training (the averaged
    ones, where there are any), in inference mode.

    Args:
        test: dataset of `data.labeled`, images with their maps.
        every: int, epochs between two evaluations (the last epoch is included).
        epochs: int, the number of the last epoch, or None.
        workers: `workers.Workers`; the chief measures, all learn the result.
    """

    def __init__(self, test, *, every=1, epochs=None, workers=None):
        super().__init__()
        self.test = test
        self.every = every
        self.epochs = epochs
        self.workers = workers or workers_lib.Workers()
        self._judge = None

    def on_train_begin(self, logs=None):
        if self._judge is None:  # Kept: a new one would be traced again.
            self._judge = judge(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        loss, mean_iou, accuracy = self.workers.from_chief(self._measured, size=3)
        if logs is not None:
            logs["val_loss"] = loss
            logs[SCORE] = mean_iou
            logs["val_pixel_accuracy"] = accuracy

    def _measured(self):
        loss, found = self._judge(self.test)
        return loss, found.mean_iou, found.pixel_accuracy


def judge(model):
    """A function of datasets, compiled once, that judges a `methods.Segmentation`.

    Args:
        model: the method.

    Returns:
        Function of a dataset of `data.labeled` -> `(loss, segmentation.Segmentation)`,
        the mean loss of its images that have a pixel with a class, and the scores of
        all their pixels.
    """
    run = internals.function(model.judged, reduce_retracing=True)
    classes = model.num_classes

    def of_all(dataset):
        confusion, losses = np.zeros((classes, classes), np.int64), []
        for batch in dataset:
            real = batch["mask"].numpy()
            labels, mask, loss = (x.numpy()[real] for x in run(batch["image"]))
            confusion += segmentation.confusion(mask, labels, classes)
            known = (labels != label_maps.IGNORED).any(axis=(1, 2))
            losses.append(loss[known])
        scores = segmentation.scores(confusion)  # Of no pixel there are none.
        return float(np.mean(np.concatenate(losses), dtype=np.float64)), scores

    return of_all

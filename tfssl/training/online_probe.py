"""A linear classifier that follows pre-training on a labelled set of its own.

After the encoder's step, a batch of labelled images passes through the encoder in
inference mode, and the classifier makes one step of its own (`evaluation.linear_heads`:
no tape, no variable, nothing of the encoder's optimizer). Pre-training is bit for bit
what it would be without the probe. SimCLR's code trains such a probe on the batch of
the loss; a set of its own keeps labels out of pre-training and allows other images.
"""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import internals
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import linear_heads
from tfssl.training import checkpoint, due

_NAME = "online_probe"


class OnlineProbe(keras.callbacks.Callback):
    """Logs `probe_accuracy`, the top-1 accuracy of a linear classifier.

    The features pass through batch norm without scale and offset, so that one rate
    suits every method and stage; SGD with Nesterov momentum 0.9 at a constant rate
    follows the encoder. The classifier therefore lags a little behind it: for a number
    to report, evaluate the finished encoder.

    Each worker of a distributed training does the same work on one device, and no
    collective operation happens here.

    Args:
        batches: function `position -> dataset` of endless labelled batches that starts
            at this stream position: `data.multiview(..., start=position,
            with_labels=True)`, whose first view is taken.
        test: dataset of `data.labeled`; images without a label are left out.
        classes: int array, the labels to tell apart; images of other classes do not
            train.
        dim: int, features of the encoder.
        rate: float, the learning rate as applied.
        every_steps: int, training steps between two steps of the probe.
        every: int, epochs between two accuracies (the last epoch is included).
        epochs: int, the number of the last epoch, or None.
    """

    def __init__(
        self, batches, test, classes, *, dim, rate, every_steps=1, every=1, epochs=None
    ):
        super().__init__()
        self.batches = batches
        self.test = test
        self.classes = np.unique(classes)
        self.every = every
        self.epochs = epochs
        self._heads = linear_heads.LinearHeads(
            [rate], [0.0], [0], dim, len(self.classes), standardize=True
        )
        self._state = self._heads.start() | {"position": tf.constant(0, tf.int64)}
        self._iterator = self._update = self._extract = None
        self._due = due.Due(every_steps)

    def variables(self):
        """The whole state, as named tensors for `checkpoint.save(also=…)`."""
        return {f"{_NAME}/{name}": value for name, value in self._state.items()}

    def restore(self, path):
        """Takes the state of a checkpoint; a probe that is not there starts anew."""
        try:
            stored = checkpoint.read_also(path, self.variables())
        except checkpoint.DamagedCheckpoint as error:
            logging.warning("%s", error)
            stored = None
        if stored is None:
            logging.warning(
                "%s holds no online probe for %d features and %d classes: it starts "
                "anew.",
                path,
                self._heads.dim,
                len(self.classes),
            )
            return
        self._state = {name: stored[f"{_NAME}/{name}"] for name in self._state}

    def on_train_begin(self, logs=None):
        self._due.begin(self.model)
        if self._update is not None:  # A second `fit` goes on.
            return
        encoder, heads = self.model.encoder, self._heads
        classes = tf.constant(self.classes, tf.int64)
        self._extract = features_lib.Extractor(encoder)
        self._iterator = iter(self.batches(int(self._state["position"])))

        def update(state, images, labels, positions):
            column = tf.searchsorted(classes, labels, out_type=tf.int64)
            column = tf.minimum(column, len(classes) - 1)
            known = tf.cast(tf.gather(classes, column) == labels, tf.float32)
            features = features_lib.forward(encoder, images)
            return heads.update(state, features, column, known[:, tf.newaxis], 1.0) | {
                "position": tf.reduce_max(positions) + 1
            }

        self._update = internals.function(update, autograph=True)

    def on_train_batch_end(self, batch, logs=None):
        (count,) = self._due.after_batch(self.model)
        for _ in range(count):
            found = next(self._iterator)
            self._state = self._update(
                self._state, found["views"]["view_0"], found["label"], found["position"]
            )

    def on_epoch_end(self, epoch, logs=None):
        due = (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs
        if not due or logs is None or not int(self._state["step"]):
            return
        found = self._extract(self.test)
        found = found.take(found.labels >= 0)
        known = np.isin(found.labels, self.classes)
        columns = np.where(known, np.searchsorted(self.classes, found.labels), -1)
        top1, _, _ = self._heads.scores(self._state, found.values, columns)
        logs["probe_accuracy"] = float(top1[0])

"""What a tokenizer makes of images that stay the same: its error, and its codes."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import internals
from tfssl.models import tokenizer
from tfssl.training import monitors
from tfssl.training import workers as workers_lib

_BATCH = 32  # Images of a pass: every cell has as many logits as there are codes.


class CodeUse(keras.callbacks.Callback):
    """Warns when one code stands for all of some images.

    Adds to the logs of every epoch, of the tokenizer that leaves the training:
    `image_error`, the mean squared difference of images and what is made of their
    tokens, and `image_perplexity`, how many codes these tokens are, e to the entropy of
    their shares.

    Args:
        images: float array `(n, h, w, c)` in [0, 1]; 256 do.
        least: float, alarm below this perplexity.
        after_steps: int, no alarm before: an untrained tokenizer may say anything.
        stop: bool, raise `TrainingStopped` instead of warning.
        workers: `workers.Workers`; the chief measures, all learn the result.
    """

    def __init__(self, images, *, least=1.5, after_steps=100, stop=False, workers=None):
        super().__init__()
        self.images = tf.convert_to_tensor(images)
        self.least = least
        self.after_steps = after_steps
        self.stop = stop
        self.workers = workers or workers_lib.Workers()
        self._there_and_back = None

    def on_train_begin(self, logs=None):
        if self._there_and_back is None:  # Kept: a new one would be traced again.
            network, _ = self.model.product()
            self._there_and_back = there_and_back(network)

    def on_epoch_end(self, epoch, logs=None):
        error, codes = self.workers.from_chief(self._measured, size=2)
        if logs is not None:
            logs["image_error"] = error
            logs["image_perplexity"] = codes
        step = int(self.model.step.numpy())
        if codes >= self.least or step < self.after_steps:
            return
        message = (
            f"The tokenizer has collapsed: {codes:.2f} of its codes are in use "
            f"(perplexity, alarm below {self.least}) at step {step}. Lower kl_weight "
            "or the learning rate, or let kl_weight rise and the temperature fall more "
            "slowly (kl_epochs, temperature_epochs)."
        )
        if self.stop:
            raise monitors.TrainingStopped(message)
        logging.warning("%s", message)

    def _measured(self):
        tokens, pictures = self._there_and_back(self.images)
        error = float(np.square(pictures - self.images.numpy()).mean())
        return error, tokenizer.perplexity(np.bincount(tokens.ravel()))


def there_and_back(network):
    """A function of a tokenizer, compiled once: images -> `(tokens, images of these)`.

    Both are arrays; of many images it takes a few at a time.
    """

    def both(images):
        tokens = network.tokens(images)
        return tokens, tf.cast(network.images(tokens), tf.float32)

    run = internals.function(both, reduce_retracing=True)

    def of_all(images):
        parts = [
            run(images[start : start + _BATCH])
            for start in range(0, len(images), _BATCH)
        ]
        return tuple(np.concatenate(pieces) for pieces in zip(*parts))

    return of_all

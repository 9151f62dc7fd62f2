"""scikit-learn's handwritten digits: real images that need no download."""

import numpy as np
import sklearn
import tensorflow as tf

from tfssl import checks
from tfssl.data import labels as labels_lib
from tfssl.data.sources import arrays

_TRAIN = 1297


def digits(split="train"):
    """scikit-learn's handwritten digits, 8×8 enlarged to 32×32 uint8.

    Args:
        split: `"train"` (1,297 images), `"test"` (500) or `"all"`; the same
            class-balanced split every time.
    """
    checks.one_of({"split": split}, "split", ("train", "test", "all"))
    data = sklearn.datasets.load_digits()
    # Bicubic, 4 x: the strokes stay strokes. Values 0 to 16.
    images = tf.image.resize(data.images[..., np.newaxis], (32, 32), "bicubic")
    images = np.clip(np.round(images.numpy() * (255 / 16)), 0, 255).astype(np.uint8)
    order = labels_lib.balanced_order(data.target, seed=0)
    rows = {
        "train": order[:_TRAIN],
        "test": order[_TRAIN:],
        "all": np.arange(len(images)),
    }[split]
    source = arrays.ArraySource(
        images[rows],
        data.target[rows],
        name="digits" if split == "all" else f"digits/{split}",
        class_names=tuple(str(digit) for digit in range(10)),
    )
    source.places = lambda: [f"digits {row}" for row in rows]
    return source

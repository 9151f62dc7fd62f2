"""Teachers: networks that a training asks and does not change, wherever they lie.

A teacher is opened before anything is built or written, so that a start with another
one is refused like other settings; what asks it in a step is made of it under the
strategy, see `Teacher.layer`.
"""

import dataclasses
import functools
import inspect
import os
import random

import keras
import tensorflow as tf

from tfssl import checks, data, frozen, methods
from tfssl.models import copying
from tfssl.tasks import runs


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network to learn from, with what it takes and what it will be shown.

    Attributes:
        network: a built Keras model: images -> features, a feature map, or logits.
        preprocessing: `data.Preprocessing` of the network.
        views: `data.Preprocessing` of the views that the student gets.

    Raises:
        ValueError: if the network does not take such views, see `frozen.Frozen`.
    """

    network: keras.Model
    preprocessing: data.Preprocessing
    views: data.Preprocessing

    def __post_init__(self):
        # Refuses here what the layer of the step would refuse later.
        frozen.Frozen(self.network, self.preprocessing, self.views)

    @functools.cached_property
    def fingerprint(self):
        """What tells it from another, see `frozen.Frozen.fingerprint`."""
        return frozen.fingerprint(self.network, self.preprocessing)

    def layer(self):
        """The layer that is asked in a step; call it under the strategy.

        Where a strategy has a scope it holds a copy, whose variables each of its
        devices has, also if it is the only core of a TPU.
        """
        network = self.network
        if tf.distribute.has_strategy():
            drawn = random.getstate()
            network = copying.copied(network, "every replica")
            random.setstate(drawn)  # The student starts as on one device.
        return frozen.Frozen(network, self.preprocessing, self.views)

    def record(self):
        """What run.json, report and model card say of it, a JSON-able dict."""
        return {
            "name": self.network.name,
            "parameters": self.network.count_params(),
            "fingerprint": self.fingerprint,
            "preprocessing": self.preprocessing.get_config(),
        }


def told(record):
    """A recorded teacher in words."""
    if not record:
        return "none"
    return "{name}, {parameters:,} parameters, fingerprint {fingerprint}".format(
        **record
    )


def for_method(given, method, views):
    """The teacher of a method, which has one or has none.

    Args:
        given: see `open_teacher`, or None.
        method: key of `METHODS`.
        views: `data.Preprocessing` of the views.

    Returns:
        A `Teacher`, or None.

    Raises:
        ValueError: for a teacher too many or too few, or one that does not fit.
    """
    taught = {
        name: kind
        for name, kind in methods.METHODS.items()
        if "teacher" in inspect.signature(kind).parameters
    }
    if given is None and method not in taught:
        return None
    if given is None:
        raise ValueError(
            f"method={method!r} learns from a teacher, but none was given; pass "
            f"teacher=… (--teacher): {taught[method].taught_by}."
        )
    if method not in taught:
        raise checks.refused(
            "teacher",
            given,
            f"none with method={method!r}, but with {' or '.join(taught)}",
        )
    return open_teacher(given, views)


def open_teacher(given, views, preprocessing=None):
    """Opens a teacher.

    Args:
        given: the folder of a run, a `.keras` file of tfssl, the folder of an exported
            model or of a version of it; or a Keras model, an `Encoder`.
        views: `data.Preprocessing` of the views.
        preprocessing: that of a Keras model which is no `Encoder`.

    Returns:
        A `Teacher`.

    Raises:
        ValueError: if there is none, its preprocessing is not known, or it takes other
            images than that makes, or than the views are.
    """
    if isinstance(given, str | os.PathLike):
        given = runs.load(given)
        preprocessing = preprocessing or given.preprocessing
    found = preprocessing or getattr(given, "preprocessing", None)
    if found is None and isinstance(given, keras.Model):
        raise ValueError(
            f"The teacher {given.name!r} has no preprocessing, so that nobody knows "
            "which pixels it takes; give it as tfssl.formats.Encoder(network, "
            "tfssl.data.Preprocessing(...)), or a file with both."
        )
    network, preprocessing = runs.encoder_of(given, found)
    return Teacher(network, preprocessing, views)

"""Linear and MLP probes of many features: Adam over features computed once.

L-BFGS (`linear_probe`) keeps float64 copies of all features, which the 10,000 numbers
of a pooled feature map make too many. Here batches of rows are standardized as they
are read. All penalties of a grid are trained at once, each with a network of its own
that sees the same batches.

References:
    Caron et al., 2018, https://arxiv.org/abs/1807.05520: linear classifiers on every
    convolution, and the remark that an MLP on the last convolution of a random
    AlexNet is far above chance (after Noroozi and Favaro, 2016,
    https://arxiv.org/abs/1603.09246). The optimizer is not theirs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfssl import checks, progress
from tfssl.data import labels as labels_lib
from tfssl.evaluation import dense_networks, judging
from tfssl.evaluation import features as features_lib

# Penalties of the grid.
L2S = (1.0, 0.1, 0.01, 0.001)
# Where nothing can be held out.
FIXED_L2 = 0.01
# Times of the schedule at which held-out images are scored.
_PARTS = 20
# Rows read at once for means and scores: bounds the memory.
_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class DenseResult:
    """What the probe found, and how.

    Attributes:
        accuracy: top-1 on the test features, in [0, 1].
        l2: the penalty used, on the mean cross-entropy.
        steps: updates of the network whose accuracy this is.
        validation: tuple of `(l2, steps, accuracy)` on the held-out images, one per
            penalty, each at its best time; empty where nothing was held out.
        protocol: one line that says how the number was made.
    """

    accuracy: float
    l2: float
    steps: int
    validation: tuple
    protocol: str


@dataclasses.dataclass(frozen=True)
class Dense(judging.Probe):
    """Linear classifiers of any number of features.

    Attributes:
        l2s: penalty or penalties to try, see `dense_networks.Networks`.
        epochs: passes over the images, but at least `min_steps` steps; the rate falls
            to zero over them as a cosine.
        min_steps: int, see `epochs`; few labels would otherwise mean few steps.
        batch_size: int, images per step at most; they are divided evenly.
        rate: float, see `dense_networks.Networks`.
        validation_fraction: held-out share per class, in (0, 1). The penalty, and
            after which twentieth of the schedule to stop, are those of the best
            accuracy on these images (of equal ones, the lower cross-entropy); a last
            network is then trained so on all of them. Where a class has one image
            nothing is held out: penalty 0.01 and the whole schedule.
        draws: draws of the labels below 100 % that it is trained on.
    """

    l2s: Sequence[float] | float = L2S
    epochs: int = 30
    min_steps: int = 500
    batch_size: int = 256
    rate: float = 0.02
    validation_fraction: float = 0.2
    draws: int = 1
    units: ClassVar[Any] = ()

    def __post_init__(self):
        for name, low in _WHOLE.items():
            _check_whole(name, getattr(self, name), low)
        for name, low in (("l2s", 0), ("rate", 1e-12)):
            _check_finite(name, getattr(self, name), low)
        checks.true_share(vars(self), "validation_fraction")

    def rows(self, subject, budgets):
        setting = subject.setting
        for budget in budgets:
            results = [
                self.fit(
                    bank,
                    subject.queries,
                    seed=setting.seed + draw,
                    verbose=setting.verbose,
                )
                for draw, bank in enumerate(budget.banks(subject, self.draws))
            ]
            yield subject.row(
                budget.name,
                self.name,
                [result.accuracy for result in results],
                judging.first_protocol(results),
                l2=results[0].l2,
                validation=[list(entry) for entry in results[0].validation],
            )

    def fit(self, train, test, *, seed=0, verbose=0):
        """Trains on features and scores on others, see the function `fit`."""
        units = np.atleast_1d(np.asarray(self.units, int)).tolist()
        l2s = np.atleast_1d(self.l2s).tolist()
        name = "The MLP probe" if units else "The linear probe"
        classes = _checked_classes(train, test, name)
        trainer = functools.partial(
            _Trainer,
            train,
            units=units,
            epochs=self.epochs,
            min_steps=self.min_steps,
            batch_size=self.batch_size,
            rate=self.rate,
            seed=seed,
            verbose=verbose,
        )
        held = labels_lib.held_out(
            train.labels, self.validation_fraction, np.random.default_rng((seed, 0))
        )
        l2, part, validation = FIXED_L2, _PARTS, ()
        if held.any():
            trained = trainer(np.flatnonzero(~held), classes, l2s)
            rows = np.flatnonzero(held)
            scores = [trained.scores(train, rows) for _ in trained.parts()]
            l2, part, validation = _choose(l2s, trained.ends, scores)
        trained = trainer(np.arange(len(train)), classes, [l2])
        for done in trained.parts():
            if done == part:
                break
        (accuracy,), (loss,) = trained.scores(test, np.arange(len(test)))
        if not np.isfinite(loss):
            raise ValueError(
                f"The {self.name} probe has diverged: its loss on the test images is "
                f"{loss}; give a smaller rate than {self.rate:g}."
            )
        accuracy = float(accuracy)
        steps = int(trained.ends[part - 1])
        sizes = " → ".join(str(size) for size in (train.values.shape[1], *units))
        kind = "linear probe"
        if units:
            kind = f"MLP probe ({sizes} → {len(classes)}, ReLU)"
        protocol = (
            f"{kind}, Adam, standardised features ({train.values.shape[1]}), "
            f"{_choice(l2, validation, held)}, {steps:,} of {trained.ends[-1]:,} steps "
            f"of {trained.batch}, rate {self.rate:g} / sqrt(inputs), cosine, "
            f"{len(train)} train / {len(test)} test images"
        )
        return DenseResult(accuracy, float(l2), steps, validation, protocol)


@dataclasses.dataclass(frozen=True)
class Mlp(Dense):
    """Classifiers with hidden ReLU layers, otherwise as `Dense`.

    Attributes:
        units: int or ints, sizes of the hidden layers.
    """

    name = "mlp"
    titles = {"mlp": "MLP probe"}

    units: Sequence[int] | int = 512

    def __post_init__(self):
        super().__post_init__()
        if not np.size(self.units):
            raise ValueError(
                f"units={self.units!r} received, but the MLP needs hidden units; give "
                "one or more sizes, such as units=512 or units=(512,256)."
            )
        _check_whole("units", self.units, 1)


def fit(train, test, *, units=(), seed=0, verbose=0, **options):
    """Trains a linear or MLP classifier on frozen features and scores it.

    On a CPU the same call gives the same number on the same machine; a GPU sums in an
    order of its own.

    Args:
        train: labelled `Features`, standardized by their own mean and deviation.
        test: labelled `Features`; never looked at before the final score. Classes
            that `train` does not have count as wrong.
        units: int or ints, sizes of the hidden ReLU layers; empty for a linear probe.
        seed: int, of the held-out choice, the order and the start.
        verbose: 0 silent, 1 progress.
        **options: see the attributes of `Dense`.

    Returns:
        `DenseResult`.

    Raises:
        ValueError: on missing labels, non-finite features, fewer than two classes,
            or arguments out of range.
    """
    probe = Mlp(units=units, **options) if np.size(units) else Dense(**options)
    return probe.fit(train, test, seed=seed, verbose=verbose)


# The least value of each.
_WHOLE = {"epochs": 1, "min_steps": 0, "batch_size": 1, "draws": 1}


def _check_whole(name, values, low):
    for value in np.atleast_1d(values).tolist():
        if not isinstance(value, int | float) or value % 1 or not value >= low:
            raise ValueError(
                f"{name}={value!r} received for the probe, expected a whole number of "
                f"at least {low}."
            )


def _check_finite(name, values, low):
    values = np.atleast_1d(values).tolist()
    if not values or not all(
        isinstance(value, int | float) and low <= value < math.inf for value in values
    ):
        raise ValueError(
            f"{name}={values} received for the probe, expected finite numbers "
            f"{'above' if low else 'of at least'} 0."
        )


def _checked_classes(train, test, name):
    """The classes of the training images, ascending."""
    features_lib.check_labeled(train, name, "training")
    features_lib.check_labeled(test, name, "test")
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs at least two classes, but every training image has label "
            f"{classes[0]}."
        )
    return classes


class _Trainer:
    """Networks, the rows that they are trained on, and how those are scaled."""

    def __init__(
        self,
        bank,
        rows,
        classes,
        l2s,
        *,
        units,
        epochs,
        min_steps,
        batch_size,
        rate,
        seed,
        verbose,
    ):
        self._bank, self._rows, self._classes = bank, rows, classes
        self._seed, self._verbose = seed, verbose
        per_epoch = -(-len(rows) // batch_size)
        self.batch = len(rows) // per_epoch  # Leaves out fewer than `per_epoch` rows.
        steps = max(epochs * per_epoch, min_steps)
        # After which step each part of the schedule ends; few steps, fewer parts.
        self.ends = np.ceil(np.arange(1, _PARTS + 1) * steps / _PARTS).astype(int)
        networks = dense_networks.Networks(
            l2s, bank.values.shape[1], units, len(classes), rate=rate, seed=seed
        )
        mean, scale = _moments(bank.values, rows)

        @tf.function(autograph=False, reduce_retracing=True)
        def update(x, labels, step, factor):
            networks.update((x - mean) * scale, labels, step, factor)

        @tf.function(autograph=False, reduce_retracing=True)
        def score(x, labels):
            known = labels >= 0
            x = (x - mean) * scale
            right = tf.argmax(networks.logits(x), -1) == labels
            losses = networks.cross_entropy(x, tf.maximum(labels, 0))
            return (
                tf.reduce_sum(tf.cast(right & known, tf.float64), -1),
                tf.reduce_sum(tf.cast(tf.where(known, losses, 0.0), tf.float64), -1),
            )

        self._update, self._score = update, score

    def parts(self):
        """Trains; yields 1, 2, … after each part of the schedule."""
        rng = np.random.default_rng((self._seed, 1))
        order, done, total = np.zeros(0, np.int64), 0, self.ends[-1]
        bar = progress.bar(
            total=total, wanted=self._verbose, desc="probe", unit="step", leave=False
        )
        with bar:
            for part, end in enumerate(self.ends, start=1):
                for step in range(done, end):
                    if len(order) < self.batch:
                        order = rng.permutation(self._rows)
                    rows, order = order[: self.batch], order[self.batch :]
                    self._update(
                        tf.constant(self._bank.values[rows], tf.float32),
                        tf.constant(
                            np.searchsorted(self._classes, self._bank.labels[rows])
                        ),
                        tf.constant(step + 1, tf.float32),
                        tf.constant(
                            0.5 * (1 + math.cos(math.pi * step / total)), tf.float32
                        ),
                    )
                    bar.update()
                done = end
                yield part

    def scores(self, bank, rows):
        """Accuracy and mean cross-entropy of each network on rows of `Features`."""
        sums = 0.0
        for first in range(0, len(rows), _ROWS):
            some = rows[first : first + _ROWS]
            labels = bank.labels[some]
            columns = np.searchsorted(self._classes, labels)
            columns = np.where(np.isin(labels, self._classes), columns, -1)
            values = tf.constant(bank.values[some], tf.float32)
            sums += np.array(self._score(values, tf.constant(columns, tf.int64)))
        return sums / len(rows)


def _moments(values, rows):
    """Mean of some rows, and 1 / their deviation (1 where that is 0); float32."""
    total = np.zeros(values.shape[1])
    squares, largest = np.zeros_like(total), np.zeros_like(total)
    parts = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    for part in parts:
        total += values[part].sum(0, dtype=np.float64)
        largest = np.maximum(largest, np.abs(values[part]).max(0))
    mean = total / len(rows)
    for part in parts:
        squares += np.square(values[part] - mean).sum(0)
    deviation = np.sqrt(squares / len(rows))
    deviation[deviation <= 1e-6 * largest] = 1.0  # Constant features.
    return mean.astype(np.float32), (1 / deviation).astype(np.float32)


def _choose(l2s, ends, scores):
    """The best penalty, its part of the schedule, and the best of each penalty."""
    accuracy, loss = np.moveaxis(np.array(scores), 1, 0)  # (parts, H)
    finite = np.isfinite(loss)  # A network of NaN names the first class.
    accuracy, loss = np.where(finite, accuracy, -1.0), np.where(finite, loss, np.inf)
    best = [int(np.lexsort((loss[:, h], -accuracy[:, h]))[0]) for h in range(len(l2s))]
    heads = range(len(l2s))
    chosen = min(heads, key=lambda h: (-accuracy[best[h], h], loss[best[h], h]))
    validation = tuple(
        (float(l2s[h]), int(ends[best[h]]), float(accuracy[best[h], h])) for h in heads
    )
    return l2s[chosen], best[chosen] + 1, validation


def _choice(l2, validation, held):
    """How the penalty was chosen, in words."""
    if not validation:
        return f"l2 {l2:g} and all steps fixed (a class has one label)"
    tried = "; ".join(f"{v:g}: {100 * score:.1f}" for v, _, score in validation)
    return f"l2 {l2:g} by accuracy on {int(held.sum())} held-out images ({tried})"

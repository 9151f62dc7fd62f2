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
import math

import numpy as np
import tensorflow as tf

from tfssl import checks, progress
from tfssl.evaluation import dense_networks, linear_probe
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


def fit(
    train,
    test,
    *,
    units=(),
    l2s=L2S,
    epochs=30,
    min_steps=500,
    batch_size=256,
    rate=0.02,
    validation_fraction=0.2,
    seed=0,
    verbose=0,
):
    """Trains a linear or MLP classifier on frozen features and scores it.

    Deterministic: the same call gives the same number on the same machine.

    Args:
        train: labelled `Features`, standardized by their own mean and deviation.
        test: labelled `Features`; never looked at before the final score. Classes
            that `train` does not have count as wrong.
        units: int or ints, sizes of the hidden ReLU layers; empty for a linear probe.
        l2s: penalty or penalties to try, see `dense_networks.Networks`.
        epochs: passes over the images, but at least `min_steps` steps; the rate falls
            to zero over them as a cosine.
        min_steps: int, see `epochs`; few labels would otherwise mean few steps.
        batch_size: int, images per step at most; they are divided evenly.
        rate: float, see `dense_networks.Networks`.
        validation_fraction: held-out share per class, in (0, 1). The penalty, and
            after which twentieth of the schedule to stop, are those of the best
            accuracy on these images (of equal ones, the lower cross-entropy); a last
            network is then trained so on all of `train`. Where a class has one image
            nothing is held out: penalty 0.01 and the whole schedule.
        seed: int, of the held-out choice, the order and the start.
        verbose: 0 silent, 1 progress.

    Returns:
        `DenseResult`.

    Raises:
        ValueError: on missing labels, non-finite features, fewer than two classes,
            or arguments out of range.
    """
    check(
        units=units,
        l2s=l2s,
        epochs=epochs,
        min_steps=min_steps,
        batch_size=batch_size,
        rate=rate,
        validation_fraction=validation_fraction,
    )
    units = np.atleast_1d(np.asarray(units, int)).tolist()
    l2s = np.atleast_1d(l2s).tolist()
    name = "The MLP probe" if units else "The linear probe"
    features_lib.check_labeled(train, name, "training")
    features_lib.check_labeled(test, name, "test")
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs at least two classes, but every training image has label "
            f"{classes[0]}."
        )
    held = linear_probe.held_out(
        train.labels, validation_fraction, np.random.default_rng((seed, 0))
    )

    def trainer(rows, penalties):
        return _Trainer(
            train,
            rows,
            classes,
            penalties,
            units=units,
            epochs=epochs,
            min_steps=min_steps,
            batch_size=batch_size,
            rate=rate,
            seed=seed,
            verbose=verbose,
        )

    if held.any():
        trained = trainer(np.flatnonzero(~held), l2s)
        scores = [trained.scores(train, np.flatnonzero(held)) for _ in trained.parts()]
        l2, part, validation = _choose(l2s, trained.ends, scores)
    else:
        l2, part, validation = FIXED_L2, _PARTS, ()
    trained = trainer(np.arange(len(train)), [l2])
    for done in trained.parts():
        if done == part:
            break
    accuracy = float(trained.scores(test, np.arange(len(test)))[0][0])
    steps = int(trained.ends[part - 1])
    sizes = " → ".join(str(size) for size in (train.values.shape[1], *units))
    kind = f"MLP probe ({sizes} → {len(classes)}, ReLU)" if units else "linear probe"
    protocol = (
        f"{kind}, Adam, standardised features ({train.values.shape[1]}), "
        f"{_choice(l2, validation, held)}, {steps:,} of {trained.ends[-1]:,} steps of "
        f"{trained.batch}, rate {rate:g} / sqrt(inputs), cosine, "
        f"{len(train)} train / {len(test)} test images"
    )
    return DenseResult(accuracy, float(l2), steps, validation, protocol)


def check(
    *,
    units=(),
    l2s=L2S,
    epochs=30,
    min_steps=500,
    batch_size=256,
    rate=0.02,
    validation_fraction=0.2,
):
    """Raises `ValueError` for arguments that `fit` cannot work with, naming one."""
    for name, values, low in (
        ("units", units, 1),
        ("epochs", epochs, 1),
        ("min_steps", min_steps, 0),
        ("batch_size", batch_size, 1),
    ):
        for value in np.atleast_1d(values).tolist():
            if not isinstance(value, int | float) or value % 1 or not value >= low:
                raise ValueError(
                    f"{name}={value!r} received for the probe, expected a whole number "
                    f"of at least {low}."
                )
    for name, values, low in (("l2s", l2s, 0), ("rate", rate, 1e-12)):
        values = np.atleast_1d(values).tolist()
        if not values or not all(
            isinstance(value, int | float) and low <= value < math.inf
            for value in values
        ):
            raise ValueError(
                f"{name}={values} received for the probe, expected finite numbers "
                f"{'above' if low else 'of at least'} 0."
            )
    checks.true_share(
        {"validation_fraction": validation_fraction}, "validation_fraction"
    )


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

        @tf.function(reduce_retracing=True)
        def update(x, labels, step, factor):
            networks.update((x - mean) * scale, labels, step, factor)

        @tf.function(reduce_retracing=True)
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
    loss = np.where(np.isfinite(loss), loss, np.inf)
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

"""Linear probe: multinomial logistic regression on cached, frozen features.

Reference:
    Chen et al., 2020, https://arxiv.org/abs/2002.05709, appendix B.8 (transfer by
    a linear classifier): L-BFGS on features of unaugmented images, the L2
    strength chosen on held-out training images among log-spaced values, then a
    refit on all training images. Differences: 15 values instead of 45, chosen by
    cross-entropy (steadier than accuracy on few images), features scaled (below),
    and a part of the training features is the held-out set.
"""

import dataclasses
import warnings

import numpy as np
import sklearn
import threadpoolctl

from tfssl import checks, kmeans
from tfssl.data import labels as labels_lib
from tfssl.evaluation import dense_probe, judging, logistic
from tfssl.evaluation import features as features_lib

# Penalties of the sweep, strongest first: each fit starts from the one before.
SWEEP = tuple(float(f"{value:.1e}") for value in np.logspace(1, -6, 15))
# What features are divided by, and what a protocol calls it.
SCALINGS = {"unit": "unit-norm", "standard": "standardised"}
# Where a class has a single image nothing can be held out. On few images the
# classes are separable and the value hardly matters.
FIXED_L2 = 0.1
# Below this many training images one held-out part is too noisy to choose by.
_FEW, _DRAWS_WHEN_FEW = 500, 5
# Below this many numbers the threads of BLAS wait for each other: one is faster
# (10 times, for 1,300 rows of 128 on two busy cores).
_ONE_THREAD_BELOW = 2_000_000
# Rows that are converted at once: bounds the memory.
_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Linear(dense_probe.Dense):
    """`fit` as a probe, and `dense_probe.Dense` of the stages of an encoder.

    L-BFGS copies all features in float64, which those of stages are too many for. All
    options but `scaling` are of the probe of stages.

    Attributes:
        scaling: see `fit`.
    """

    name = "linear"
    titles = {"linear": "Linear probe"}
    copies = 2  # Float64 instead of float32.

    scaling: str = "unit"

    def __post_init__(self):
        super().__post_init__()
        checks.one_of(vars(self), "scaling", SCALINGS)

    def rows(self, subject, budgets):
        if subject.stage is not None:
            yield from super().rows(subject, budgets)
            return
        for budget in budgets:
            results = [
                fit(bank, subject.queries, scaling=self.scaling)
                for bank in budget.banks(subject)
            ]
            protocol = judging.first_protocol(results)
            if len(results) > 1:
                hashes = (selection.sha256[:8] for selection in budget.selections)
                protocol += f", label lists {', '.join(hashes)}"
            accuracies = [result.accuracy for result in results]
            yield subject.row(budget.name, "linear", accuracies, protocol)


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found, and how.

    Attributes:
        accuracy: top-1 on the test features, in [0, 1].
        l2: the penalty used, on the mean cross-entropy.
        protocol: one line that says how the number was made.
        converged: whether the final fit met its tolerance within `max_iter`.
        num_train: training images.
        num_test: test images.
    """

    accuracy: float
    l2: float
    protocol: str
    converged: bool
    num_train: int
    num_test: int


def fit(
    train,
    test,
    *,
    l2=None,
    validation_fraction=0.2,
    seed=0,
    scaling="unit",
    sweep=SWEEP,
    max_iter=500,
):
    """Trains a linear classifier on frozen features and scores it.

    Minimises `mean cross-entropy + l2 / 2 * sum(weights ** 2)` (the biases are
    free), so that one `l2` means the same at any number of images. Deterministic:
    the same arguments give the same number.

    Args:
        train: labelled `Features`.
        test: labelled `Features`; never looked at before the final score.
        l2: penalty > 0; `None` chooses it from `sweep` by the cross-entropy of a
            class-balanced held-out part of `train` (the mean over 5 such parts
            below 500 images), then refits on all of `train`. Where some class
            has a single image, `FIXED_L2` is used and the protocol says so.
        validation_fraction: held-out share per class, in (0, 1).
        seed: of the held-out choice.
        scaling: `"unit"` divides each image's features by their length (good
            where labels are few); `"standard"` gives each feature mean 0 and
            standard deviation 1 over the training images.
        sweep: penalties to try, each > 0.
        max_iter: L-BFGS iterations per fit, which bounds the time.

    Returns:
        `ProbeResult`.

    Raises:
        ValueError: on missing labels, non-finite features, fewer than two
            classes, or arguments out of range.
    """
    _check_arguments(l2, validation_fraction, scaling, sweep)
    features_lib.check_labeled(train, "The linear probe", "training")
    features_lib.check_labeled(test, "The linear probe", "test")
    if len(np.unique(train.labels)) < 2:
        raise ValueError(
            "The linear probe needs at least two classes, but every training image "
            f"has label {train.labels[0]}."
        )
    if l2 is not None:
        chosen = f"l2 {l2:g} given"
    else:
        l2, chosen = _choose(
            train, validation_fraction, seed, scaling, sorted(sweep)[::-1], max_iter
        )
    train_x, test_x = _scaled(scaling, _all_rows(train), _all_rows(test))
    model = _model(max_iter)
    converged = _fit(model, train_x, train.labels, l2)
    accuracy = float((model.predict(test_x) == test.labels).mean())
    protocol = (
        f"linear probe, L-BFGS, {SCALINGS[scaling]} features ({train_x.shape[1]}), "
        f"{chosen}, {len(train)} train / {len(test)} test images"
    )
    if not converged:
        protocol += f", stopped at {max_iter} iterations"
    return ProbeResult(accuracy, l2, protocol, converged, len(train), len(test))


def _choose(train, fraction, seed, scaling, sweep, max_iter):
    """Picks the penalty by the cross-entropy of held-out training images."""
    if np.unique(train.labels, return_counts=True)[1].min() < 2:
        return FIXED_L2, f"l2 {FIXED_L2:g} fixed (a class has one label)"
    draws = []
    for draw in range(_DRAWS_WHEN_FEW if len(train) < _FEW else 1):
        mask = labels_lib.held_out(
            train.labels, fraction, np.random.default_rng((seed, draw))
        )
        rows = np.flatnonzero(~mask), np.flatnonzero(mask)
        values = _scaled(scaling, *((train.values, some) for some in rows))
        draws.append((_model(max_iter), values, *(train.labels[some] for some in rows)))
    best, lowest, worse = sweep[0], np.inf, 0
    for l2 in sweep:
        loss = 0.0
        for model, (rest_x, part_x), rest_labels, part_labels in draws:
            _fit(model, rest_x, rest_labels, l2)
            loss += _cross_entropy(model, part_x, part_labels) / len(draws)
        best, lowest, worse = (
            (l2, loss, 0) if loss < lowest else (best, lowest, worse + 1)
        )
        # The curve has one valley, and its weak end is where the time goes.
        if worse == 3:
            break
    count = f"{int(mask.sum())} held-out images"
    count += f" x {len(draws)} draws" if len(draws) > 1 else ""
    return best, f"l2 {best:.2g} of {len(sweep)} by loss on {count}"


def _cross_entropy(model, values, labels):
    columns = np.searchsorted(model.classes_, labels)
    log_probabilities = model.predict_log_proba(values)
    # A certain mistake has log(0); the floor keeps the mean comparable.
    return -np.maximum(log_probabilities[np.arange(len(labels)), columns], -50).mean()


def _scaled(scaling, *parts):
    """Both sets in float64, typical entries near 1, by numbers of the first only.

    Nothing else of their size is there meanwhile.

    Args:
        scaling: see `fit`.
        *parts: two pairs of values and the rows of them to take: training, test.
    """
    train, test = (_in_float64(scaling, *part) for part in parts)
    # The free biases absorb the shift; without it L-BFGS needs far more steps.
    mean = train.mean(axis=0)
    if scaling == "standard":
        ends = train.max(axis=0, initial=0.0), train.min(axis=0, initial=0.0)
        largest = np.maximum(ends[0], -ends[1])
    train -= mean
    test -= mean
    if scaling == "standard":
        std = _root_mean_square(train)
        std[std <= 1e-6 * largest] = 1.0  # Constant features.
        train /= std
        test /= std
    return train, test


def _all_rows(features):
    return features.values, np.arange(len(features))


def _in_float64(scaling, values, rows):
    found = np.empty((len(rows), values.shape[1]))
    for start in range(0, len(rows), _ROWS):
        block = values[rows[start : start + _ROWS]]
        if scaling == "unit":
            size = np.sqrt(values.shape[1])
            block = kmeans.unit_norm(block).astype(np.float64) * size
        found[start : start + _ROWS] = block
    return found


def _root_mean_square(rows):
    """That of each column, added up in the order of `np.std`."""
    total = np.zeros((1, rows.shape[1]))
    for start in range(0, len(rows), _ROWS):
        squares = np.square(rows[start : start + _ROWS])
        total = np.concatenate([total, squares]).sum(axis=0, keepdims=True)
    return np.sqrt(total[0] / len(rows))


def _model(max_iter):
    if kmeans.on_gpu():
        return logistic.LogisticRegression(max_iter)
    return sklearn.linear_model.LogisticRegression(
        solver="lbfgs", max_iter=max_iter, warm_start=True
    )


def _fit(model, values, labels, l2):
    """Fits in place, from the weights of the fit before if there is one."""
    model.C = 1.0 / (l2 * len(values))  # scikit-learn weighs the SUM of losses.
    threads = 1 if values.size < _ONE_THREAD_BELOW else None
    with (
        warnings.catch_warnings(record=True) as caught,
        threadpoolctl.threadpool_limits(threads),
    ):
        warnings.simplefilter("always")
        model.fit(values, labels)
    return not any(
        issubclass(w.category, sklearn.exceptions.ConvergenceWarning) for w in caught
    )


def _check_arguments(l2, validation_fraction, scaling, sweep):
    if l2 is not None and not l2 > 0:
        raise ValueError(f"The linear probe needs l2 > 0 (or None), got {l2}.")
    if not sweep or min(sweep) <= 0:
        raise ValueError(f"The linear probe needs sweep values > 0, got {sweep!r}.")
    if not 0 < validation_fraction < 1:
        raise ValueError(
            "The linear probe needs validation_fraction between 0 and 1 (both "
            f"excluded), got {validation_fraction}."
        )
    if scaling not in SCALINGS:
        raise ValueError(
            f'Unknown scaling {scaling!r} of the linear probe; use "unit" or '
            '"standard".'
        )

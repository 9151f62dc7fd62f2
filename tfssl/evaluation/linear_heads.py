"""Linear classifiers trained side by side: many learning rates, one pass.

The state is a dict of tensors and an update a pure function of it. No variable
exists, so nothing here meets a distribution strategy, a gradient tape or the
optimizer of the encoder.
"""

import math
import numbers

import numpy as np
import tensorflow as tf

OPTIMIZERS = {"sgd": "SGD, Nesterov momentum 0.9", "lars": "LARS, momentum 0.9"}
INITIAL = ("zeros", "normal")
_MOMENTUM = 0.9
_TRUST = 1e-3
_EPSILON = 1e-5
# Rows scored at once: bounds the memory of the logits.
_ROWS = 1024


class LinearHeads:
    """`H` softmax classifiers that see the same features, each with its own rate.

    For one head with kernel `W (dim, classes)`, bias `b`, rate `lr` and weight
    decay `wd`, the loss of a batch is the mean cross-entropy of its rows. With
    its gradients `g(W) + wd * W` and `g(b)`, slot `m = 0.9 * m + g`:

    * `"sgd"`: `W -= lr * (0.9 * m + g)` (Nesterov; PyTorch's form, as in the
      papers' code);
    * `"lars"`: `g` of the kernel is first multiplied by
      `0.001 * |W| / |g|` (1 where either is 0); then `W -= lr * m`. The form of
      MAE's linear probe; biases take the rate as it is.

    Weight decay spares the biases. Nothing couples the heads: the sum of their
    losses has for each kernel the gradient of its own loss.

    Args:
        rates: float `(H,)`, as applied (scaled by the batch size already).
        decays: float `(H,)`.
        groups: int `(H,)`, for each head the column of `weights` in `update`.
        dim: features.
        num_classes: int >= 2.
        optimizer: `"sgd"` or `"lars"`.
        initial: `"zeros"`, or `"normal"`: standard deviation 0.01. All heads
            start alike. From zeros, LARS needs very large rates: its first step
            alone sets the size of the kernel.
        standardize: batch norm without scale and offset before the classifiers:
            statistics of the batch in training, moving ones (0.9) in `scores`.
        seed: int, of the normal start.
    """

    def __init__(
        self,
        rates,
        decays,
        groups,
        dim,
        num_classes,
        *,
        optimizer="sgd",
        initial="zeros",
        standardize=False,
        seed=0,
    ):
        check(rates, decays, optimizer, initial)
        self.rates = np.asarray(rates, np.float32)
        self.decays = np.asarray(decays, np.float32)
        self.groups = np.asarray(groups, np.int32)
        self.dim = dim
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.initial = initial
        self.standardize = standardize
        self.seed = seed
        self._count = tf.function(self._counts, autograph=False, reduce_retracing=True)

    def start(self):
        """The state before the first update.

        Returns:
            Dict of tensors: `step` int64, `kernel (dim, H, classes)`, `bias
            (H, classes)`, their momenta, and `mean (dim,)`, `variance (dim,)` of
            the features.
        """
        heads = len(self.rates)
        kernel = tf.zeros([self.dim, heads, self.num_classes])
        if self.initial == "normal":
            one = tf.random.stateless_normal(
                [self.dim, 1, self.num_classes], [self.seed, 0], stddev=0.01
            )
            kernel = kernel + one
        bias = tf.zeros([heads, self.num_classes])
        return {
            "step": tf.constant(0, tf.int64),
            "kernel": kernel,
            "bias": bias,
            "kernel_momentum": tf.zeros_like(kernel),
            "bias_momentum": tf.zeros_like(bias),
            "mean": tf.zeros([self.dim]),
            "variance": tf.ones([self.dim]),
        }

    def update(self, state, features, labels, weights, factor):
        """One step of every head.

        Args:
            state: dict as `start` gives it.
            features: `(batch, dim)`, any floating dtype.
            labels: int `(batch,)` in `[0, num_classes)`.
            weights: float32 `(batch, num_groups)`, 1 for rows that the heads of a
                group train on, 0 for the others.
            factor: float scalar, what the schedule makes of the rates.

        Returns:
            The new state.
        """
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        state = dict(state)
        if self.standardize:
            mean, variance = tf.nn.moments(features, axes=[0])
            state["mean"] = 0.9 * state["mean"] + 0.1 * mean
            state["variance"] = 0.9 * state["variance"] + 0.1 * variance
            features = (features - mean) * tf.math.rsqrt(variance + _EPSILON)
        share = weights / tf.maximum(tf.reduce_sum(weights, axis=0), 1.0)
        share = tf.gather(share, self.groups, axis=1)[..., tf.newaxis]
        # The gradient of the mean cross-entropy by the logits, in closed form.
        wanted = tf.one_hot(labels, self.num_classes)[:, tf.newaxis]
        by_logits = (tf.nn.softmax(self._logits(state, features)) - wanted) * share
        by_kernel = tf.reshape(
            tf.matmul(features, _flat(by_logits), transpose_a=True),
            state["kernel"].shape,
        )
        by_kernel += self.decays[:, np.newaxis] * state["kernel"]
        if self.optimizer == "lars":
            by_kernel *= _trust(state["kernel"], by_kernel)
        rates = factor * self.rates[:, np.newaxis]
        for name, gradient in (
            ("kernel", by_kernel),
            ("bias", tf.reduce_sum(by_logits, axis=0)),
        ):
            moving = _MOMENTUM * state[f"{name}_momentum"] + gradient
            ahead = _MOMENTUM * moving + gradient
            state[f"{name}_momentum"] = moving
            state[name] -= rates * (moving if self.optimizer == "lars" else ahead)
        state["step"] += 1
        return state

    def scores(self, state, features, labels):
        """How well every head classifies.

        Args:
            state: dict, after at least one update.
            features: float32 `(rows, dim)`.
            labels: int `(rows,)`; negative for classes that the heads do not know,
                which count as wrong.

        Returns:
            `(top1, top5, loss)`, float64 `(H,)`: accuracies in [0, 1] (top-5: among
            at most 5 classes) and mean cross-entropy of the known rows. Of a head
            that is not finite: 0, 0 and infinity.

        Raises:
            ValueError: if the heads have not been trained.
        """
        if int(state["step"]) == 0:
            raise ValueError(
                "The linear classifiers have not been trained (step 0), so their "
                "accuracy would say nothing; update them first."
            )
        sums = np.zeros([3, len(self.rates)])
        for first in range(0, len(labels), _ROWS):
            rows = slice(first, first + _ROWS)
            found = self._count(
                state,
                tf.convert_to_tensor(features[rows], tf.float32),
                tf.convert_to_tensor(labels[rows], tf.int64),
            )
            sums += np.array(found, np.float64)
        top1, top5, loss = sums
        known = max(int((np.asarray(labels) >= 0).sum()), 1)
        finite = np.isfinite(loss)
        return (
            np.where(finite, top1, 0.0) / len(labels),
            np.where(finite, top5, 0.0) / len(labels),
            np.where(finite, loss, np.inf) / known,
        )

    def _counts(self, state, features, labels):
        if self.standardize:
            scale = tf.math.rsqrt(state["variance"] + _EPSILON)
            features = (features - state["mean"]) * scale
        logits = self._logits(state, features)
        known = tf.cast(labels >= 0, tf.float32)[:, tf.newaxis]
        column = tf.maximum(labels, 0)
        at_label = tf.one_hot(column, self.num_classes)[:, tf.newaxis]
        # One product too many would make 0 * infinity of a class beside.
        own = tf.reduce_sum(tf.where(at_label > 0, logits, 0.0), -1, keepdims=True)
        before = tf.range(self.num_classes, dtype=tf.int64) < column[:, tf.newaxis]
        # Rank of the label; of equal logits the first counts as larger (argmax).
        larger = (logits > own) | ((logits == own) & before[:, tf.newaxis])
        rank = tf.reduce_sum(tf.cast(larger, tf.float32), -1)
        losses = tf.reduce_logsumexp(logits, -1) - own[..., 0]
        return (
            tf.reduce_sum(known * tf.cast(rank < 1, tf.float32), 0),
            tf.reduce_sum(known * tf.cast(rank < 5, tf.float32), 0),
            tf.reduce_sum(known * losses, 0),
        )

    def _logits(self, state, features):
        kernel = state["kernel"]
        logits = tf.matmul(features, tf.reshape(kernel, [self.dim, -1]))
        shape = [-1, len(self.rates), self.num_classes]
        return tf.reshape(logits, shape) + state["bias"]


def _flat(x):
    """`(batch, H, classes)` -> `(batch, H * classes)`."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2]])


def _trust(kernel, gradient):
    """LARS's factor of each head, `(H, 1)`."""
    size = tf.sqrt(tf.reduce_sum(tf.square(kernel), axis=[0, 2]))
    length = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=[0, 2]))
    trust = tf.math.divide_no_nan(_TRUST * size, length)
    return tf.where((size > 0) & (length > 0), trust, 1.0)[:, tf.newaxis]


def _are_numbers(values):
    return len(values) > 0 and all(
        isinstance(value, numbers.Real) and math.isfinite(value) for value in values
    )


def check(rates, decays, optimizer, initial):
    """Raises `ValueError` for arguments of `LinearHeads` that cannot work."""
    if not _are_numbers(rates) or not min(rates) > 0:
        raise ValueError(
            f"Learning rates {list(rates)} received for the linear classifiers, "
            "expected one or more finite numbers above 0."
        )
    if not _are_numbers(decays) or not min(decays) >= 0:
        raise ValueError(
            f"Weight decays {list(decays)} received for the linear classifiers, "
            "expected one or more finite numbers of at least 0."
        )
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer={optimizer!r} received for the linear classifiers, expected "
            f"one of {', '.join(OPTIMIZERS)}."
        )
    if initial not in INITIAL:
        raise ValueError(
            f"initial={initial!r} received for the linear classifiers, expected one "
            f"of {', '.join(INITIAL)}."
        )

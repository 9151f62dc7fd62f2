"""Logistic regression on a GPU: scikit-learn's objective, start, steps and tolerances.

SciPy's L-BFGS takes the steps, as in scikit-learn. What costs, two products with all
rows, is done on the device, in float64: the result is the same but for rounding.
"""

import warnings

import numpy as np
import scipy
import sklearn
import tensorflow as tf

_TOLERANCE = 1e-4  # scikit-learn's default.
_LOGITS = 1 << 26  # Numbers that are made at a time: 512 MB.


class LogisticRegression:
    """What `linear_probe` uses of scikit-learn's class of this name.

    The rows stay on the device between fits of the same array, in float64.

    Args:
        max_iter: int, iterations at most.

    Attributes:
        C: float, 1 / penalty of the SUM of losses.
        classes_: the classes, ascending.
    """

    def __init__(self, max_iter):
        self.C = 1.0
        self.classes_ = None
        self._max_iter = max_iter
        self._weights = None
        self._held = None, None

    def fit(self, values, labels):
        """Fits in place, from the weights of the fit before if there is one.

        Warns with scikit-learn's `ConvergenceWarning` if `max_iter` did not do.
        """
        self.classes_, columns = np.unique(labels, return_inverse=True)
        classes, dim = len(self.classes_), values.shape[1]
        x, y = self._rows(values), tf.constant(columns, tf.int32)
        # Of two classes the first has no weights, as in scikit-learn.
        free = classes if classes > 2 else 1
        l2 = 1.0 / (self.C * len(values))

        def weights_of(flat):
            return np.pad(flat.reshape(dim + 1, free), [(0, 0), (classes - free, 0)])

        def objective(flat):
            weights = weights_of(flat)
            count = tf.constant(_rows_at_once(classes))
            loss, gradient = _loss(x, y, tf.constant(weights), count)
            gradient = gradient.numpy()[:, classes - free :] / len(values)
            kernel = flat.reshape(dim + 1, free)[:-1]
            gradient[:-1] += l2 * kernel
            total = float(loss) / len(values) + l2 / 2 * np.vdot(kernel, kernel)
            return total, gradient.reshape(-1)

        start = self._weights
        if start is None:
            start = np.zeros((dim + 1, classes))
        found = scipy.optimize.minimize(
            objective,
            start[:, classes - free :].reshape(-1),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": self._max_iter,
                "maxls": 50,
                "gtol": _TOLERANCE,
                "ftol": 64 * np.finfo(float).eps,
            },
        )
        self._weights = weights_of(found.x)
        if found.status != 0:
            warnings.warn(
                found.message, sklearn.exceptions.ConvergenceWarning, stacklevel=2
            )
        return self

    def predict_log_proba(self, values):
        """float64 `(rows, classes)`."""
        weights = tf.constant(self._weights)
        count = _rows_at_once(len(self.classes_))
        parts = [
            tf.nn.log_softmax(
                _logits(tf.constant(values[first : first + count]), weights)
            )
            for first in range(0, len(values), count)
        ]
        return np.concatenate([part.numpy() for part in parts])

    def predict(self, values):
        """The likeliest class of each row."""
        return self.classes_[self.predict_log_proba(values).argmax(axis=1)]

    def _rows(self, values):
        if self._held[0] is not values:
            self._held = None, None  # Before the next ones take their room.
            self._held = values, tf.constant(values, tf.float64)
        return self._held[1]


def _rows_at_once(classes):
    return max(1024, _LOGITS // classes)


def _logits(x, weights):
    return tf.matmul(x, weights[:-1]) + weights[-1]


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float64),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, None), tf.float64),
        tf.TensorSpec((), tf.int32),
    ]
)
def _loss(x, labels, weights, count):
    """Sum of the cross-entropies, and its gradient by weights and biases."""
    loss, gradient = tf.zeros([], tf.float64), tf.zeros_like(weights)
    for first in tf.range(0, tf.shape(x)[0], count):
        rows, wanted = x[first : first + count], labels[first : first + count]
        logits = tf.nn.log_softmax(_logits(rows, weights))
        wanted = tf.one_hot(wanted, tf.shape(weights)[1], dtype=tf.float64)
        loss -= tf.reduce_sum(wanted * logits)
        wrong = tf.exp(logits) - wanted
        by_kernel = tf.matmul(rows, wrong, transpose_a=True)
        by_bias = tf.reduce_sum(wrong, axis=0, keepdims=True)
        gradient += tf.concat([by_kernel, by_bias], axis=0)
    return loss, gradient

"""Weighted k-nearest-neighbour classification of frozen features.

Reference:
    Wu et al., 2018, https://arxiv.org/abs/1805.01978 (InstDisc), section 3.4:
    each of the k nearest training images, by cosine similarity `s`, votes for
    its class with weight `exp(s / temperature)`. Here on the encoder's pooled
    features, as MoCo's demo and later work do, not on the projection.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfssl import checks, kmeans
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import judging

_QUERIES = 4096  # At once; and rows of the bank beside them, on a CPU.
_ON_GPU = 65536  # Rows of the bank: six times as fast there as 4,096.


@dataclasses.dataclass(frozen=True)
class Knn(judging.Probe):
    """`accuracy` as a probe.

    Attributes:
        k: neighbours that vote, at most as many as are labelled.
        temperature: see `accuracy`.
    """

    name = "knn"
    titles = {"kNN": "Weighted kNN"}
    of_stages = False

    k: int = 20
    temperature: float = 0.1

    def __post_init__(self):
        checks.whole(vars(self), "k")
        checks.positive(vars(self), "temperature")

    def rows(self, subject, budgets):
        for budget in budgets:
            accuracies = []
            for bank in budget.banks(subject):
                k = min(self.k, len(bank))
                accuracies.append(
                    accuracy(bank, subject.queries, k=k, temperature=self.temperature)
                )
            protocol = f"weighted kNN, k {k}, temperature {self.temperature:g}, cosine"
            yield subject.row(budget.name, "kNN", accuracies, protocol)


def accuracy(train, test, *, k=20, temperature=0.1, top=1, block_size=None):
    """Share of test images whose class is among the `top` best voted ones.

    Args:
        train: labelled `Features` that vote.
        test: labelled `Features` to classify.
        k: neighbours that vote, 1 <= k <= number of training features.
        temperature: > 0; smaller trusts the nearest ones more.
        top: 1 for top-1 accuracy, 5 for top-5.
        block_size: rows of train per similarity block, see `nearest`.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: on missing labels, non-finite features, or a `k` larger than
            the number of training features.
    """
    features_lib.check_labeled(test, "The kNN", "test")
    classes = predict(
        train, test, k=k, temperature=temperature, top=top, block_size=block_size
    )
    return float((classes == test.labels[:, np.newaxis]).any(axis=1).mean())


def predict(train, test, *, k=20, temperature=0.1, top=1, block_size=None):
    """Classes of the test features, best voted first.

    Args:
        train: labelled `Features` that vote.
        test: `Features` to classify; their labels are not looked at.
        k: see `accuracy`, as for the other arguments.
        temperature: see `accuracy`.
        top: how many classes to return, at most the number of classes.
        block_size: see `accuracy`.

    Returns:
        int64 `(num_test, min(top, num_classes))`. Equal votes go to the smaller
        class number, equal similarities to the earlier training image.
    """
    _check_arguments(k, temperature, top, block_size)
    features_lib.check_labeled(train, "The kNN", "training")
    features_lib.check_finite(test, "The kNN", "test")
    neighbors, similarity = nearest(
        train.values, test.values, k=k, block_size=block_size
    )
    classes, class_of = np.unique(train.labels, return_inverse=True)
    top = min(top, len(classes))
    # Shifted by the row's largest value: the order is the same and exp is finite.
    weights = np.exp(
        (similarity - similarity.max(axis=1, keepdims=True)) / temperature
    ).astype(np.float64)
    predicted = np.empty((len(test), top), np.int64)
    for start in range(0, len(test), _QUERIES):
        stop = min(start + _QUERIES, len(test))
        votes = np.zeros((stop - start, len(classes)))
        rows = np.arange(stop - start)[:, np.newaxis]
        np.add.at(votes, (rows, class_of[neighbors[start:stop]]), weights[start:stop])
        order = np.argsort(-votes, axis=1, kind="stable")[:, :top]
        predicted[start:stop] = classes[order]
    return predicted


def nearest(bank, queries, *, k, block_size=None):
    """The `k` rows of a bank most similar (cosine) to each query.

    On the device that TensorFlow has. The queries lie there; the bank passes by once,
    block by block.

    Args:
        bank: float `(num_bank, dim)`; need not be normalised.
        queries: float `(num_queries, dim)`.
        k: 1 <= k <= num_bank.
        block_size: rows of the bank in one similarity block; memory is
            `4 * 4096 * block_size` bytes. None takes 4,096, and 65,536 on a GPU.

    Returns:
        `(rows, similarity)`: int64 and float32 `(num_queries, k)`, most similar
        first; of equal ones the earlier row of the bank first.

    Raises:
        ValueError: if `k` is out of range or the widths differ.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(
            f"k={k} neighbours were asked of {len(bank)} training features; give k "
            f"from 1 to {len(bank)}."
        )
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(
            f"The bank has {bank.shape[1]} numbers per image and the queries "
            f"{queries.shape[1]}; both must come from one encoder."
        )
    block_size = block_size or (_ON_GPU if kmeans.on_gpu() else _QUERIES)
    parts = [
        _unit_rows(queries[start : start + _QUERIES])
        for start in range(0, max(1, len(queries)), _QUERIES)
    ]
    found = [
        (tf.zeros((len(part), 0)), tf.zeros((len(part), 0), tf.int64)) for part in parts
    ]
    for start in range(0, len(bank), block_size):
        block = _unit_rows(bank[start : start + block_size])
        found = [
            _best(part, block, start, k, *best) for part, best in zip(parts, found)
        ]
    similarity, rows = (np.concatenate(columns) for columns in zip(*found))
    return rows, similarity


def _unit_rows(rows):
    """Each row divided by its L2 norm, as `kmeans.unit_norm`, on the device."""
    rows = tf.convert_to_tensor(rows, tf.float32)
    largest = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True)
    rows = tf.math.divide_no_nan(rows, largest)
    return tf.math.divide_no_nan(rows, tf.norm(rows, axis=1, keepdims=True))


def _best(queries, block, start, k, similarity, rows):
    """The best k of those so far and of a block that starts at row `start`."""
    found = tf.matmul(queries, block, transpose_b=True)
    # top_k puts the earlier of two equal values first; the earlier blocks
    # stand on the left, so the rule holds across blocks.
    found, columns = tf.math.top_k(found, min(k, len(block)))
    similarity = tf.concat([similarity, found], axis=1)
    rows = tf.concat([rows, tf.cast(columns, tf.int64) + start], axis=1)
    similarity, columns = tf.math.top_k(similarity, min(k, similarity.shape[1]))
    return similarity, tf.gather(rows, columns, batch_dims=1)


def _check_arguments(k, temperature, top, block_size):
    if k < 1:
        raise ValueError(f"The kNN needs k >= 1 neighbours, got k={k}.")
    if not temperature > 0:
        raise ValueError(f"The kNN needs temperature > 0, got {temperature}.")
    if top < 1:
        raise ValueError(f"The kNN needs top >= 1 classes to look at, got top={top}.")
    if block_size is not None and block_size < 1:
        raise ValueError(f"The kNN needs block_size >= 1, got {block_size}.")

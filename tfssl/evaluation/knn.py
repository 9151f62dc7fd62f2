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


def accuracy(
    train, test, *, k=20, temperature=0.1, top=1, block_size=4096, max_train=None
):
    """Share of test images whose class is among the `top` best voted ones.

    Args:
        train: labelled `Features` that vote.
        test: labelled `Features` to classify.
        k: neighbours that vote, 1 <= k <= number of training features.
        temperature: > 0; smaller trusts the nearest ones more.
        top: 1 for top-1 accuracy, 5 for top-5.
        block_size: rows of train and of test per similarity block; memory is
            `4 * block_size ** 2` bytes, whatever the sizes of the sets.
        max_train: if given, vote with this many training features, the same
            random ones at every call.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: on missing labels, non-finite features, or a `k` larger than
            the number of training features.
    """
    features_lib.check_labeled(test, "The kNN", "test")
    classes = predict(
        train,
        test,
        k=k,
        temperature=temperature,
        top=top,
        block_size=block_size,
        max_train=max_train,
    )
    return float((classes == test.labels[:, np.newaxis]).any(axis=1).mean())


def predict(
    train, test, *, k=20, temperature=0.1, top=1, block_size=4096, max_train=None
):
    """Classes of the test features, best voted first.

    Args:
        train: labelled `Features` that vote.
        test: `Features` to classify; their labels are not looked at.
        k: see `accuracy`, as for the other arguments.
        temperature: see `accuracy`.
        top: how many classes to return, at most the number of classes.
        block_size: see `accuracy`.
        max_train: see `accuracy`.

    Returns:
        int64 `(num_test, min(top, num_classes))`. Equal votes go to the smaller
        class number, equal similarities to the earlier training image.
    """
    _check_arguments(k, temperature, top, block_size)
    features_lib.check_labeled(train, "The kNN", "training")
    if max_train is not None and max_train < len(train):
        chosen = np.random.default_rng(0).choice(len(train), max_train, replace=False)
        train = train.take(np.sort(chosen))
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
    for start in range(0, len(test), block_size):
        stop = min(start + block_size, len(test))
        votes = np.zeros((stop - start, len(classes)))
        rows = np.arange(stop - start)[:, np.newaxis]
        np.add.at(votes, (rows, class_of[neighbors[start:stop]]), weights[start:stop])
        order = np.argsort(-votes, axis=1, kind="stable")[:, :top]
        predicted[start:stop] = classes[order]
    return predicted


def nearest(bank, queries, *, k, block_size=4096):
    """The `k` rows of a bank most similar (cosine) to each query.

    Args:
        bank: float `(num_bank, dim)`; need not be normalised.
        queries: float `(num_queries, dim)`.
        k: 1 <= k <= num_bank.
        block_size: rows of bank and of queries in one similarity block.

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
    bank = kmeans.unit_norm(bank)
    rows = np.empty((len(queries), k), np.int64)
    similarity = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), block_size):
        stop = min(start + block_size, len(queries))
        block = kmeans.unit_norm(queries[start:stop])
        rows[start:stop], similarity[start:stop] = _nearest_of_block(
            bank, block, k, block_size
        )
    return rows, similarity


def _nearest_of_block(bank, queries, k, block_size):
    """Walks over the bank, keeping the best k so far."""
    best = tf.zeros((len(queries), 0), tf.float32)
    best_rows = tf.zeros((len(queries), 0), tf.int64)
    for start in range(0, len(bank), block_size):
        part = bank[start : start + block_size]
        found = tf.matmul(queries, part, transpose_b=True)
        # top_k puts the earlier of two equal values first; the earlier blocks
        # stand on the left, so the rule holds across blocks.
        found, columns = tf.math.top_k(found, min(k, len(part)))
        values = tf.concat([best, found], axis=1)
        all_rows = tf.concat([best_rows, tf.cast(columns, tf.int64) + start], axis=1)
        best, columns = tf.math.top_k(values, min(k, values.shape[1]))
        best_rows = tf.gather(all_rows, columns, batch_dims=1)
    return best_rows.numpy(), best.numpy()


def _check_arguments(k, temperature, top, block_size):
    if k < 1:
        raise ValueError(f"The kNN needs k >= 1 neighbours, got k={k}.")
    if not temperature > 0:
        raise ValueError(f"The kNN needs temperature > 0, got {temperature}.")
    if top < 1:
        raise ValueError(f"The kNN needs top >= 1 classes to look at, got top={top}.")
    if block_size < 1:
        raise ValueError(f"The kNN needs block_size >= 1, got {block_size}.")

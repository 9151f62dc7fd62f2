"""How well a clustering agrees with labels, or with another clustering.

Neither number asks which cluster is which class: the names of the clusters do not
matter.
"""

import dataclasses

import numpy as np
from sklearn import metrics

from tfssl import kmeans
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import judging

_ITERATIONS = 50


@dataclasses.dataclass(frozen=True)
class Clusters(judging.Probe):
    """`evaluate` as a probe; the entry `accuracy` of its rows is the purity or the NMI.

    Attributes:
        k: clusters, at most as many as there are test images.
    """

    name = "clusters"
    titles = {
        "purity": "Purity of k-means clusters",
        "NMI": "NMI of k-means clusters and classes",
    }
    of_stages = False

    k: int

    def rows(self, subject, budgets):
        found = evaluate(subject.queries, self.k, seed=subject.setting.seed)
        for name, value in (("purity", found.purity), ("NMI", found.nmi)):
            protocol = f"{name} of {found.protocol}"
            yield subject.row(judging.UNLABELED, name, [value], protocol)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well k-means clusters of features agree with the images' classes.

    Attributes:
        purity: see `purity`.
        nmi: see `nmi`.
        protocol: one line that says how the numbers were made.
    """

    purity: float
    nmi: float
    protocol: str


def evaluate(features, num_clusters, *, seed=0):
    """Clusters features by k-means and compares the clusters with the labels.

    The labels are looked at after the clustering only.

    Args:
        features: labelled `Features`; their rows are divided by their lengths.
        num_clusters: from 1 to the number of images.
        seed: int, of the start (k-means++); the best of several starts is not sought.

    Returns:
        `Agreement`.

    Raises:
        ValueError: on missing labels, non-finite features or too many clusters.
    """
    features_lib.check_labeled(features, "The clustering", "validation")
    found = kmeans.fit(
        kmeans.unit_norm(features.values),
        num_clusters=num_clusters,
        iterations=_ITERATIONS,
        init="k-means++",
        seed=seed,
    )
    filled = int((found.sizes > 0).sum())
    empty = f" ({num_clusters - filled} empty)" if filled < num_clusters else ""
    protocol = (
        f"k-means of unit-norm features ({features.values.shape[1]}), {num_clusters} "
        f"clusters{empty}, k-means++ start, {_ITERATIONS} updates, {len(features)} "
        f"validation images of {len(np.unique(features.labels))} classes"
    )
    return Agreement(
        purity(found.assignments, features.labels),
        nmi(found.assignments, features.labels),
        protocol,
    )


def nmi(a, b):
    """Normalized mutual information of two partitions of the same images.

    `I(a; b) / mean(H(a), H(b))`: 1 if each says everything about the other, 0 if they
    are independent. Chance is not taken off: with few images per cluster, random
    assignments have an NMI well above 0.

    Args:
        a: int `(n,)`, cluster or class of each image.
        b: int `(n,)`, likewise.

    Returns:
        float in [0, 1]; 1 if both put all images together, 0 if only one does.

    Raises:
        ValueError: if the shapes differ, there is no image, or a value is no integer.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    _check_pair(a, b)
    score = metrics.normalized_mutual_info_score(a, b, average_method="arithmetic")
    return float(np.clip(score, 0.0, 1.0))  # Rounding leaves 1 + 2e-16.


def purity(assignments, labels):
    """Share of the images whose class is the most frequent one of their cluster.

    Grows with the number of clusters, to 1 for one image each; compare it only at the
    same number of clusters and images.

    Args:
        assignments: int `(n,)`, cluster of each image.
        labels: int `(n,)`, its class, not negative.

    Returns:
        float in (0, 1].

    Raises:
        ValueError: as for `nmi`, and on missing labels (-1).
    """
    assignments, labels = (
        _checked(assignments, "assignments"),
        _checked(labels, "labels"),
    )
    _check_pair(assignments, labels)
    if labels.min() < 0:
        raise ValueError(
            f"The purity needs labels, but {int((labels < 0).sum())} of {len(labels)} "
            "images have none (negative); leave them out."
        )
    # Sparse: 10,000 clusters times 20,000 classes would be 1.6 GB.
    counts = metrics.cluster.contingency_matrix(assignments, labels, sparse=True)
    return float(counts.max(axis=1).sum() / len(labels))


def _checked(values, name):
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"{name} has shape {values.shape}, expected one number for each of one or "
            "more images, (n,)."
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"{name} is {values.dtype}, expected integers: the cluster or class of "
            "each image."
        )
    return values


def _check_pair(first, second):
    if len(first) != len(second):
        raise ValueError(
            f"Two partitions of {len(first)} and {len(second)} images received, "
            "expected both of the same images, in the same order."
        )

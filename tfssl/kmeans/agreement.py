"""How well a clustering agrees with labels, or with another clustering.

Neither number asks which cluster is which class: the names of the clusters do not
matter.
"""

import numpy as np
import sklearn


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
    score = sklearn.metrics.normalized_mutual_info_score(
        a, b, average_method="arithmetic"
    )
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
    counts = sklearn.metrics.cluster.contingency_matrix(
        assignments, labels, sparse=True
    )
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

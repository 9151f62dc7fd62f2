"""How well the clusters of features agree with labels."""

import dataclasses

import numpy as np

from tfssl import kmeans
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import judging
from tfssl.kmeans.agreement import nmi, purity

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
    copies_of_tests = 3  # Of unit norm, as a tensor, and with mean 0 for k-means++.

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

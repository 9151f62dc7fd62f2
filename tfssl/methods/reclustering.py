"""What the methods share that cluster their images between epochs."""

import math

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.kmeans import agreement
from tfssl.memory import Assignments


def check_counts(given):
    """Raises `ValueError` for clusterings that these images cannot have.

    Args:
        given: dict with `num_images` and `num_clusters`, one number per clustering.
    """
    counts = given["num_clusters"]
    if not counts or min(counts) < 1 or max(counts) > given["num_images"]:
        raise ValueError(
            f"num_clusters={counts} received for {given['num_images']} images, "
            "expected one number or several, each from 1 to the number of images "
            "(and better ten images per cluster)."
        )


def ready_steps(method, by_hand, *, before=0):
    """`Method.ready_steps` of a method with `assignments`.

    Args:
        method: the method.
        by_hand: what to call before every epoch, in words.
        before: int, steps of the training that need no clusters.

    Raises:
        ValueError: if clusters are needed, and no image has one.
    """
    if has_clusters(method.assignments):
        return math.inf
    left = before - int(method.step.numpy())
    if left < method.steps_per_execution:
        raise ValueError(
            f"{type(method).__name__} received batches of images that have no "
            "clusters, which fit does not make; train with tfssl.pretrain, or call "
            f"{by_hand} before every epoch."
        )
    return left


def has_clusters(assignments):
    """Whether any image has a cluster."""
    return int(tf.reduce_max(assignments.clusters.value)) >= 0


def renew(assignments, cluster, *, epoch, workers, centroids=()):
    """Clusters anew; all workers take the chief's clusters, and know how they changed.

    Args:
        assignments: `memory.Assignments`; its `numbers` are set here.
        cluster: function without arguments that sets `assignments.clusters` and the
            centroids -> a list with a `kmeans.Clustering` of each.
        epoch: int, the epoch that begins, from 0.
        workers: as `EpochImages.workers`.
        centroids: further variables that `cluster` sets.
    """
    before = assignments.clusters.numpy()
    found = cluster()
    numbers = _numbers(before, assignments.clusters.numpy(), found)
    assignments.numbers.assign(workers.chiefs(numbers))
    if workers.count > 1:
        for variable in (assignments.clusters, *centroids):
            variable.assign(workers.chiefs(variable.numpy()))
    if workers.is_chief:
        named = assignments.named_numbers().items()
        told = ", ".join(f"{name} {value:.4g}" for name, value in named)
        logging.info("Clustered before epoch %d: %s", epoch + 1, told)


def _numbers(before, after, found):
    """`Assignments.NUMBERS` of one or several clusterings, float32."""
    similar = [
        agreement.nmi(old[known], new[known])
        for old, new in zip(before, after)
        if (known := (old >= 0) & (new >= 0)).any()
    ]
    sizes = np.concatenate([clustering.sizes for clustering in found])
    numbers = {
        "kmeans_objective": np.mean(
            [c.objective / len(c.assignments) for c in found], dtype=np.float64
        ),
        "cluster_nmi": np.mean(similar) if similar else 0.0,
        "largest_cluster": sizes.max(),
        "smallest_cluster": sizes.min(),
        "empty_clusters": (sizes == 0).sum(),
    }
    return np.array([numbers[name] for name in Assignments.NUMBERS], np.float32)

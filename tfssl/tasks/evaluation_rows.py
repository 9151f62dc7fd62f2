"""The rows of an evaluation: a number each, with the line that says how it was made."""

import numpy as np

from tfssl.data import labels as labels_lib
from tfssl.evaluation import augmented_probe, clusters, dense_probe, knn, supervised

# The label budget of what uses labels for the score only.
UNLABELED = "none"

# What a caller may choose of the augmented probe.
PROBE_OPTIONS = (
    "recipe",
    "epochs",
    "min_steps",
    "batch_size",
    "optimizer",
    "schedule",
    "rates",
    "weight_decays",
    "initial",
    "standardize",
    "validation_fraction",
)
# What a caller may choose of the probe of many features; the last for the MLP only.
DENSE_OPTIONS = (
    "l2s",
    "epochs",
    "min_steps",
    "batch_size",
    "rate",
    "validation_fraction",
    "units",
)


def row(kind, labels, probe, accuracies, protocol, **details):
    """A row as `tasks.evaluate` gives, prints and stores it.

    Args:
        kind: what the features are ("pre-trained").
        labels: the label budget in words.
        probe: what classified them ("kNN").
        accuracies: one per draw of the labels, in [0, 1].
        protocol: one line.
        **details: further JSON-able entries.

    Returns:
        Dict.
    """
    return {
        "features": kind,
        "labels": labels,
        "probe": probe,
        "accuracy": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "draws": len(accuracies),
        "protocol": protocol,
    } | details


def knn_of(kind, bank, queries, linear, *, k, temperature):
    """KNN with the same label choices as the linear probe's row."""
    accuracies = []
    for selection in linear.selections:
        some = bank.take(selection.indices)
        neighbors = min(k, len(some))
        accuracies.append(
            knn.accuracy(some, queries, k=neighbors, temperature=temperature)
        )
    protocol = f"weighted kNN, k {neighbors}, temperature {temperature:g}, cosine"
    return row(kind, linear.labels, "kNN", accuracies, protocol)


def clusters_of(kind, queries, num_clusters, *, seed):
    """Purity and NMI of k-means clusters of the test images, a row each.

    The entry `accuracy` of these rows is the purity or the NMI.
    """
    found = clusters.evaluate(queries, num_clusters, seed=seed)
    return [
        row(kind, UNLABELED, name, [value], f"{name} of {found.protocol}")
        for name, value in (("purity", found.purity), ("NMI", found.nmi))
    ]


def augmented(
    kind,
    labels,
    network,
    train,
    banks,
    queries,
    *,
    preprocessing,
    view,
    seed,
    verbose,
    options,
    **details,
):
    """The probe trained on augmented images, of one label budget.

    Args:
        kind: see `row`.
        labels: see `row`.
        network: the frozen encoder.
        train: `Source` of the training images.
        banks: their labelled `Features`, of each draw.
        queries: `Features` of the test images.
        preprocessing: of both.
        view: the first view of the run's recipe.
        seed: int.
        verbose: 0 or 1.
        options: dict, further arguments of `augmented_probe.train`.
        **details: see `row`.
    """
    options = {"recipe": (_probe_view(view, preprocessing),)} | options
    results = [
        augmented_probe.train(
            network,
            train,
            bank,
            queries,
            preprocessing=preprocessing,
            seed=seed + draw,
            verbose=verbose,
            **options,
        )
        for draw, bank in enumerate(banks)
    ]
    first = results[0]
    return row(
        kind,
        labels,
        "augmented",
        [result.accuracy for result in results],
        _protocol(results),
        top5=float(np.mean([result.top5 for result in results])),
        rate=first.rate,
        weight_decay=first.weight_decay,
        validation=[list(pair) for pair in first.validation],
        **details,
    )


def dense(kind, labels, banks, queries, *, seed, verbose, options, **details):
    """The linear or MLP probe of many features, of one label budget.

    Args:
        kind: see `row`.
        labels: see `row`.
        banks: labelled `Features` of the training images, of each draw.
        queries: `Features` of the test images.
        seed: int.
        verbose: 0 or 1.
        options: dict, further arguments of `dense_probe.fit`; with `units` it is
            an MLP.
        **details: see `row`.
    """
    results = [
        dense_probe.fit(bank, queries, seed=seed + draw, verbose=verbose, **options)
        for draw, bank in enumerate(banks)
    ]
    first = results[0]
    return row(
        kind,
        labels,
        "mlp" if options.get("units") else "linear",
        [result.accuracy for result in results],
        _protocol(results),
        l2=first.l2,
        validation=[list(entry) for entry in first.validation],
        **details,
    )


def supervised_of(
    encoder,
    train,
    test,
    labels,
    choices,
    *,
    view,
    epochs,
    min_steps,
    max_bad_fraction,
    seed,
    verbose,
):
    """Training from scratch on the labelled images `choices`, one array per draw."""
    known = labels_lib.labelled(test)
    if len(known) < test.num_images:
        test = test.subset(known)
    results = [
        supervised.train(
            encoder,
            train,
            test,
            preprocessing=encoder.preprocessing,
            indices=indices,
            recipe=(supervised.geometry(view),),
            epochs=epochs,
            min_steps=min_steps,
            max_bad_fraction=max_bad_fraction,
            seed=seed + draw,
            verbose=verbose,
        )
        for draw, indices in enumerate(choices)
    ]
    return row(
        "supervised",
        labels,
        "end to end",
        [result.accuracy for result in results],
        results[0].protocol,
    )


def _probe_view(view, preprocessing):
    """The papers' crop and flip; the run's own geometry if that has no flips.

    A recipe without flips says that a mirror image is another thing (digits).
    """
    if view.flip:
        return augmented_probe.crop_and_flip(preprocessing)[0]
    return supervised.geometry(view)


def _protocol(results):
    """That of the first draw, and how many there were."""
    more = f"; first of {len(results)} draws" if len(results) > 1 else ""
    return results[0].protocol + more

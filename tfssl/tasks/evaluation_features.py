"""The features that an evaluation is of: of whole encoders, and of their stages."""

import numpy as np

from tfssl import data as data_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import labels as labels_lib
from tfssl.evaluation import features
from tfssl.evaluation import stages as stages_lib


def chosen_stages(encoder, chosen, limit):
    """The names of the stages to evaluate, in the order of the encoder.

    Args:
        encoder: Keras model.
        chosen: names of its stages, `("all",)`, or empty.
        limit: int, numbers of a pooled map.

    Raises:
        ValueError: if the encoder has no such stage, or none, or on a bad limit.
    """
    if limit < 1:
        raise ValueError(f"stage_features={limit} received, expected 1 or more.")
    if not chosen:
        return ()
    known = stages_lib.names(encoder)
    if "all" not in chosen:
        stages_lib.check(encoder, chosen)
        return tuple(name for name in known if name in chosen)
    if len(chosen) > 1:
        raise ValueError(
            f"stages={','.join(chosen)} received, expected either all or some of "
            f"{', '.join(known)}."
        )
    return known


def of_networks(
    networks,
    *,
    train,
    test,
    preprocessing,
    raw_pixels,
    batch_size,
    max_bad_fraction,
    verbose,
    log=True,
):
    """Features of the training and the test images, as each network gives them.

    Args:
        networks: dict from a kind ("pre-trained") to a Keras model.
        train: `Source` of the training images.
        test: `Source` of the test images.
        preprocessing: of both.
        raw_pixels: whether the pixels themselves are a kind too.
        batch_size: int, images per forward pass.
        max_bad_fraction: share of unreadable images that stops it.
        verbose: 0 or 1.
        log: whether to log unreadable images.

    Returns:
        Dict from a kind to `(Features, Features)` of the images that have a label,
        training images first and in the order of the source, so that the indices of a
        `labels.Selection` are rows.
    """
    # One each: a few bad training images may be many of a small test set.
    bad, bad_tests = (
        data_lib.pipeline.BadFiles(max_bad_fraction, log=log) for _ in range(2)
    )

    def of_both(extract):
        return tuple(
            extract(
                data_lib.labeled(
                    source,
                    preprocessing,
                    batch_size=batch_size,
                    indices=labels_lib.labelled(source),
                    bad_files=bad_files,
                )
            )
            for source, bad_files in ((train, bad), (test, bad_tests))
        )

    with bad_files_lib.explained(bad, bad_tests):
        kinds = {
            kind: of_both(features.Extractor(network, progress=bool(verbose)))
            for kind, network in networks.items()
        }
        if raw_pixels:
            kinds["raw pixels"] = of_both(features.raw_pixels)
    return {kind: (_sorted(bank), queries) for kind, (bank, queries) in kinds.items()}


def stage_rows(stage, networks, extract, selections, *, linear_of, mlp_of, augmented):
    """The rows of one stage; the features of one network at a time are in memory.

    Args:
        stage: its name.
        networks: dict from a kind to the Keras model of the stage's pooled map.
        extract: `of_networks` with all arguments but `networks`, `raw_pixels`, `log`.
        selections: dict from a label budget in words to its `labels.Selection`s.
        linear_of: `evaluation_rows.dense` with its options.
        mlp_of: the same with hidden units, or None.
        augmented: `evaluation_rows.augmented` with its options, or None.
    """
    rows = []
    for kind, network in networks.items():
        bank, queries = extract({kind: network}, raw_pixels=False, log=False)[kind]
        name, details = f"{kind} {stage}", {"encoder": kind, "stage": stage}
        for labels, choices in selections.items():
            banks = [_taken(bank, selection.indices) for selection in choices]
            rows.append(linear_of(name, labels, banks, queries, **details))
            if mlp_of:
                rows.append(mlp_of(name, labels, banks, queries, **details))
            if augmented:
                rows.append(
                    augmented(
                        name, labels, network, banks=banks, queries=queries, **details
                    )
                )
    return rows


def _sorted(bank):
    """In the order of the source; they mostly are, and a copy would be large."""
    order = np.argsort(bank.index, kind="stable")
    return bank if (np.diff(order) > 0).all() else bank.take(order)


def _taken(bank, rows):
    """Some rows; all of them without a copy (a selection's indices ascend)."""
    return bank if len(rows) == len(bank) else bank.take(rows)

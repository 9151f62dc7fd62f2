"""How good an encoder is: kNN, linear probe and baselines, from one call."""

import dataclasses
import os
import re

import keras
import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import bad_files as bad_files_lib
from tfssl.evaluation import features, knn, low_shot, supervised
from tfssl.tasks import resolve, run_report, runs

BASELINES = ("raw_pixels", "random_encoder", "supervised")
_BUDGETS = ("1", "5", "10%", "100%")


def evaluate(
    run,
    *,
    data=None,
    split=None,
    validation_data=None,
    validation_split=None,
    labels=None,
    budgets=_BUDGETS,
    draws=10,
    knn_k=20,
    knn_temperature=0.1,
    scaling="unit",
    baselines=BASELINES,
    supervised_epochs=30,
    supervised_min_steps=300,
    supervised_draws=1,
    batch_size=256,
    seed=0,
    verbose=1,
):
    """Evaluates a run's encoder against baselines and writes its report.

    Every number is accuracy on the validation images, which no choice has seen:
    the linear probe picks its penalty on held-out training images.

    Args:
        run: folder of a finished pre-training run.
        data: labelled training images; None takes the run's.
        split: their part.
        validation_data: labelled test images; None takes the run's.
        validation_split: their part.
        labels: `"auto"`, `"none"` or `"folders"`; None takes the run's.
        budgets: how many labels: `"5"` (per class) or `"10%"`, class-balanced.
        draws: int, independent choices of the labelled images below 100 %.
        knn_k: int, neighbours (at most the number of labelled images).
        knn_temperature: float, of the vote.
        scaling: of the probe's features, `"unit"` or `"standard"`.
        baselines: of `BASELINES`: the pixels themselves, the same encoder
            untrained, and the same encoder trained on the labels from scratch.
        supervised_epochs: int, passes of that training, see
            `evaluation.supervised.train`.
        supervised_min_steps: int, steps of that training at least: few labels make
            short epochs.
        supervised_draws: int, draws of that training, which is slow.
        batch_size: int, images per forward pass.
        seed: int, of draws, the random encoder and the supervised training.
        verbose: 0 silent, 1 table and progress.

    Returns:
        List of dicts, one per number: `features`, `labels`, `probe`, `accuracy`,
        `std`, `draws`, `protocol`. Also in `evaluation.json` and `report.html`.

    Raises:
        ValueError: if the run has no encoder, or labels are missing.
    """
    encoder = runs.load(run)
    settings = runs.settings_of(run)
    given = {
        "data": data,
        "split": split,
        "validation_data": validation_data,
        "validation_split": validation_split,
        "labels": labels,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    settings["channels"] = encoder.preprocessing.channels
    _check_baselines(baselines)
    train, test = resolve.sources(**settings)
    for name, source in (("training", train), ("validation", test)):
        if source is None or source.labels is None:
            missing = "images" if source is None else "labels"
            raise ValueError(
                f"The evaluation needs labelled {name} images, but there are no "
                f"{missing}; give --validation_data or --validation_split, and "
                "--labels=folders where folders are classes."
            )
    budgets = _budgets(budgets)

    bad_files = data_lib.pipeline.BadFiles(settings["max_bad_fraction"])

    def sets(source):
        return data_lib.labeled(
            source,
            encoder.preprocessing,
            batch_size=batch_size,
            bad_files=bad_files,
        )

    def pair(network):
        extract = features.Extractor(network, progress=bool(verbose))
        return extract(sets(train)), extract(sets(test))

    with bad_files_lib.explained(bad_files):
        trained = pair(encoder)
        kinds = {"pre-trained": trained}
        if "raw_pixels" in baselines:
            kinds["raw pixels"] = tuple(
                features.raw_pixels(sets(s)) for s in (train, test)
            )
        if "random_encoder" in baselines:
            kinds["random encoder"] = pair(untrained(encoder, seed))
    rows, selections = [], {}
    for kind, (bank, queries) in kinds.items():
        # In the order of the source, so that a selection's indices are rows.
        bank = bank.take(np.argsort(bank.index, kind="stable"))
        linear = low_shot.evaluate(
            bank, queries, **budgets, draws=draws, seed=seed, scaling=scaling
        )
        for row in linear:
            selections[row.labels] = row.selections
            neighbors = _knn_row(
                kind, bank, queries, row, k=knn_k, temperature=knn_temperature
            )
            rows += [
                neighbors,
                _row(kind, row.labels, "linear", row.accuracies, row.protocol),
            ]
    if "supervised" in baselines:
        view = resolve.recipe(
            settings["recipe"],
            settings["method"],
            settings["hparams"],
            settings["image_size"],
        )[0]
        for budget, choices in selections.items():
            rows.append(
                _supervised_row(
                    encoder,
                    train,
                    test,
                    np.sort(trained[0].index),  # Without the unreadable images.
                    budget,
                    choices[:supervised_draws],
                    recipe=(_geometry(view),),
                    epochs=supervised_epochs,
                    min_steps=supervised_min_steps,
                    seed=seed,
                    verbose=verbose,
                )
            )
    rows.sort(key=lambda row: list(selections).index(row["labels"]))
    files.write_json(
        os.path.join(run, "evaluation.json"),
        {
            "rows": rows,
            "label_lists": _store_lists(run, selections),
            "versions": runs.versions(),
        },
    )
    runs.update(run, evaluation=rows)
    if verbose:
        print(table(rows))
    run_report.write(run, test, trained[1], rows, seed=seed)
    return rows


def untrained(encoder, seed):
    """The same architecture with fresh random weights."""
    keras.utils.set_random_seed(seed)
    return type(encoder).from_config(encoder.get_config())


def table(rows):
    """The evaluation as text: a line per budget and kind, a column per probe."""
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    lines = [f"{'labels':<14}{'features':<18}" + "".join(f"{p:>16}" for p in probes)]
    for budget in dict.fromkeys(row["labels"] for row in rows):
        some = [row for row in rows if row["labels"] == budget]
        for kind in dict.fromkeys(row["features"] for row in some):
            cells = ""
            for probe in probes:
                found = [
                    r for r in some if (r["features"], r["probe"]) == (kind, probe)
                ]
                cells += f"{_cell(found[0]) if found else '-':>16}"
            lines.append(f"{budget:<14}{kind:<18}{cells}")
    return "\n".join(lines)


def _cell(row):
    text = f"{100 * row['accuracy']:.1f}"
    return text + (f" ± {100 * row['std']:.1f}" if row["draws"] > 1 else "")


def _check_baselines(baselines):
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ValueError(
            f"baseline {unknown[0]!r} received, expected some of "
            f"{', '.join(BASELINES)}."
        )


def _store_lists(run, selections):
    """Writes which images were labelled to `labels/`; returns the lists' hashes."""
    folder = os.path.join(run, "labels")
    os.makedirs(folder, exist_ok=True)
    hashes = {}
    for name, choices in selections.items():
        for draw, selection in enumerate(choices):
            file = f"{name.replace(' ', '_').replace('%', 'percent')}-{draw}.json"
            selection.save(os.path.join(folder, file))
        hashes[name] = [selection.sha256 for selection in choices]
    return hashes


def _budgets(budgets):
    """`("5", "10%")` -> `{"per_class": (5,), "fractions": (0.1,)}`."""
    for budget in budgets:
        if not re.fullmatch(r"[1-9]\d*|\d+(\.\d+)?%", budget):
            raise ValueError(
                f"label budget {budget!r} received, expected a number per class "
                "('5') or a share ('10%')."
            )
    return {
        "per_class": tuple(int(b) for b in budgets if not b.endswith("%")),
        "fractions": tuple(float(b[:-1]) / 100 for b in budgets if b.endswith("%")),
    }


def _row(kind, labels, probe, accuracies, protocol):
    return {
        "features": kind,
        "labels": labels,
        "probe": probe,
        "accuracy": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "draws": len(accuracies),
        "protocol": protocol,
    }


def _knn_row(kind, bank, queries, linear, *, k, temperature):
    """KNN with the same label choices as the linear probe's row."""
    accuracies = []
    for selection in linear.selections:
        some = bank.take(selection.indices)
        neighbors = min(k, len(some))
        accuracies.append(
            knn.accuracy(some, queries, k=neighbors, temperature=temperature)
        )
    protocol = f"weighted kNN, k {neighbors}, temperature {temperature:g}, cosine"
    return _row(kind, linear.labels, "kNN", accuracies, protocol)


def _geometry(view):
    """The view without its colour changes: how supervised training crops."""
    return dataclasses.replace(view, jitter=0.0, gray=0.0, blur=0.0, solarize=0.0)


def _supervised_row(
    encoder,
    train,
    test,
    readable,
    budget,
    choices,
    *,
    recipe,
    epochs,
    min_steps,
    seed,
    verbose,
):
    results = [
        supervised.train(
            encoder,
            train,
            test,
            preprocessing=encoder.preprocessing,
            indices=readable[selection.indices],
            recipe=recipe,
            epochs=epochs,
            min_steps=min_steps,
            seed=seed + draw,
            verbose=verbose,
        )
        for draw, selection in enumerate(choices)
    ]
    return _row(
        "supervised",
        budget,
        "end to end",
        [result.accuracy for result in results],
        results[0].protocol,
    )

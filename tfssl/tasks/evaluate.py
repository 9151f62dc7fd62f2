"""How good an encoder is: kNN, linear probes and baselines, from one call."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from absl import logging

from tfssl import files, locks
from tfssl.data import labels as labels_lib
from tfssl.data.views import recipes
from tfssl.evaluation import (
    augmented_probe,
    dense_probe,
    linear_heads,
    low_shot,
    supervised,
)
from tfssl.evaluation import stages as stages_lib
from tfssl.tasks import (
    arguments,
    evaluation_features,
    evaluation_rows,
    groups,
    label_budgets,
    recorded,
    resolve,
    run_report,
    runs,
)
from tfssl.tasks.arguments import Path

PROBES = ("lbfgs", "augmented", "mlp")
PROBE_OPTIMIZERS = tuple(linear_heads.OPTIMIZERS)
BASELINES = ("raw_pixels", "random_encoder", "supervised")


@arguments.task
@locks.holding("run")
def evaluate(
    run: Path,
    *,
    data: Any = None,
    split: str | None = None,
    validation_data: Any = None,
    validation_split: str | None = None,
    labels: Literal["auto", "none", "folders"] | None = None,
    budgets: Sequence[str] | None = None,
    draws: groups.Count = 10,
    knn_k: groups.Count = 20,
    knn_temperature: groups.Positive = 0.1,
    scaling: Literal["unit", "standard"] = "unit",
    probe: Literal[PROBES] = "lbfgs",
    probe_epochs: groups.Count = 90,
    probe_rates: Sequence[float] | None = None,
    probe_optimizer: Literal[PROBE_OPTIMIZERS] = "sgd",
    probe_batch_size: groups.Count = 256,
    probe_options: dict | None = None,
    probe_draws: groups.Count = 1,
    stages: Sequence[str] = (),
    stage_features: groups.Count = stages_lib.LIMIT,
    clusters: groups.CountOrZero = 0,
    baselines: Sequence[str] = BASELINES,
    supervised_epochs: groups.Count = 30,
    supervised_min_steps: groups.CountOrZero = 300,
    supervised_draws: groups.Count = 1,
    batch_size: groups.Count = 256,
    seed: groups.Seed = 0,
    verbose: groups.Verbose = 1,
):
    """Evaluates a run's encoder against baselines and writes its report.

    Every number is accuracy on the validation images, which no choice has seen:
    the linear probe picks its penalty on held-out training images. Purity and NMI of
    clusters are of the validation images too.

    Args:
        run: folder of a finished pre-training run.
        data: labelled training images, given as for `tfssl.pretrain`; None takes the
            run's.
        split: their part.
        validation_data: labelled test images, whose classes are matched by name; None
            takes the run's.
        validation_split: their part.
        labels: where labels come from, `"auto"`, `"none"` or `"folders"`; None takes
            the run's.
        budgets: how many labels: `5` (per class) or `10%`, class-balanced. None takes
            1, 5, 10% and 100%, of them what the classes have images for.
        draws: independent choices of the labelled images below 100 %.
        knn_k: neighbours (at most the number of labelled images).
        knn_temperature: temperature of the vote.
        scaling: of the L-BFGS probe's features, `"unit"` or `"standard"`.
        probe: linear probe on features computed once (`"lbfgs"`), or also another one.
            `"augmented"`: the papers' probe, trained on augmented images, which takes
            an encoder pass per epoch (`evaluation.augmented_probe`). Its views are an
            area of 8 to 100 % and flips, or, for a run whose own views have no flips,
            their geometry (digits). `"mlp"`: a classifier with hidden layers
            (`evaluation.dense_probe`, one layer of 512 units unless `probe_options`
            says other `units`), of the stages if there are any, else of the output.
        probe_epochs: passes of the augmented probe.
        probe_rates: base learning rates of its grid, all tried in one pass; None takes
            `augmented_probe.RATES`.
        probe_optimizer: its optimizer, `"sgd"` or `"lars"`.
        probe_batch_size: images per step of the probes that are trained by steps.
        probe_options: further arguments of `augmented_probe.train`, or, with
            another `probe`, of `dense_probe.fit`.
        probe_draws: draws of the labelled images below 100 % that the augmented
            probe, the MLP and the probes of stages train on.
        stages: feature maps of the encoder to probe as well: names, or `all`. A linear
            probe on each (`evaluation.dense_probe`), and the augmented one or an MLP if
            `probe` says so, of the trained and the random encoder.
        stage_features: numbers that a stage's map is averaged to at most, see
            `evaluation.stages.pooled`.
        clusters: k of k-means on the validation images' features, whose purity
            and NMI with the classes are reported; 0 for none.
        baselines: what to compare with: `raw_pixels`, the pixels themselves,
            `random_encoder`, the same encoder untrained, `supervised`, the same encoder
            trained on the labels from scratch. Empty for nothing.
        supervised_epochs: passes of that training, see `evaluation.supervised.train`.
        supervised_min_steps: steps of that training at least: few labels make
            short epochs.
        supervised_draws: draws of that training, which is slow.
        batch_size: images per forward pass.
        seed: seed of draws, the random encoder and the supervised training.
        verbose: 0 silent, 1 table and progress.

    Returns:
        List of dicts, one per number: `features`, `labels`, `probe`, `accuracy`,
        `std`, `draws`, `protocol` (of `probe` "purity" and "NMI", `accuracy` is that
        number); the augmented probe's also `top5`, `rate`,
        `weight_decay` and `validation`, those of a stage also `encoder` and `stage`,
        and of the MLP and stages `l2` and `validation`. Also in `evaluation.json` and
        `report.html`.

    Raises:
        ValueError: if the run has no encoder or has not trained a step, or labels are
            missing.
    """
    encoder = runs.load(run)
    settings = recorded.settings_of(run)
    given = {
        "data": data,
        "split": split,
        "validation_data": validation_data,
        "validation_split": validation_split,
        "labels": labels,
    }
    own = [name for name in ("data", "validation_data") if given[name] is None]
    recorded.check_can_be_opened(run, settings, own)
    settings |= {key: value for key, value in given.items() if value is not None}
    settings["channels"] = encoder.preprocessing.channels
    _check_trained(run)
    options = {
        "epochs": probe_epochs,
        "rates": probe_rates,
        "optimizer": probe_optimizer,
        "batch_size": probe_batch_size,
    }
    dense = {"batch_size": probe_batch_size}
    chosen = options if probe == "augmented" else dense
    chosen |= probe_options or {}
    _check_choices(baselines, probe, options, dense)
    stages = evaluation_features.chosen_stages(encoder, stages, stage_features)
    train, test = resolve.sources(**settings)
    _check_labels(train, "training", verbose)
    _check_labels(test, "validation", verbose)
    budgets = label_budgets.parsed(budgets, train.labels, train.class_names)
    most = len(labels_lib.labelled(test))
    if not 0 <= clusters <= most:
        raise ValueError(
            f"clusters={clusters} received, expected 0 (none) to {most}, the number of "
            "labelled validation images."
        )

    limit = settings["max_bad_fraction"]
    networks = {"pre-trained": encoder}
    if "random_encoder" in baselines:
        networks["random encoder"] = untrained(encoder, seed)
    extract = functools.partial(
        evaluation_features.of_networks,
        train=train,
        test=test,
        preprocessing=encoder.preprocessing,
        batch_size=batch_size,
        max_bad_fraction=limit,
        verbose=verbose,
    )
    kinds = extract(networks, raw_pixels="raw_pixels" in baselines)
    trained = kinds["pre-trained"]
    # Unreadable images are known by now.
    budgets = label_budgets.fitting(budgets, trained[0].labels, train.class_names)
    view = _training_view(settings, encoder.preprocessing)
    augmented = functools.partial(
        evaluation_rows.augmented,
        train=train,
        preprocessing=encoder.preprocessing,
        view=view,
        seed=seed,
        verbose=verbose,
        options=options,
    )
    linear_of, mlp_of = (
        functools.partial(
            evaluation_rows.dense, seed=seed, verbose=verbose, options=some
        )
        for some in (dense | {"units": ()}, {"units": (512,)} | dense)
    )
    rows, selections = [], {}
    for kind, (bank, queries) in kinds.items():
        probe_of = None
        if probe == "augmented" and kind in networks:
            probe_of = functools.partial(augmented, network=networks[kind])
        elif probe == "mlp" and not stages:
            probe_of = mlp_of
        linear = low_shot.evaluate(
            bank, queries, **budgets, draws=draws, seed=seed, scaling=scaling
        )
        for row in linear:
            selections[row.labels] = row.selections
            rows += [
                evaluation_rows.knn_of(
                    kind, bank, queries, row, k=knn_k, temperature=knn_temperature
                ),
                evaluation_rows.row(
                    kind, row.labels, "linear", row.accuracies, row.protocol
                ),
            ]
            if probe_of:
                banks = [bank.take(s.indices) for s in row.selections[:probe_draws]]
                rows.append(probe_of(kind, row.labels, banks=banks, queries=queries))
        if clusters:
            rows += evaluation_rows.clusters_of(kind, queries, clusters, seed=seed)
    for stage in stages:
        rows += evaluation_features.stage_rows(
            stage,
            {
                kind: stages_lib.pooled(network, stage, stage_features)
                for kind, network in networks.items()
            },
            extract,
            {name: some[:probe_draws] for name, some in selections.items()},
            linear_of=linear_of,
            mlp_of=mlp_of if probe == "mlp" else None,
            augmented=augmented if probe == "augmented" else None,
        )
    if "supervised" in baselines:
        readable = np.sort(trained[0].index)  # Without the unreadable images.
        for budget, choices in selections.items():
            rows.append(
                evaluation_rows.supervised_of(
                    encoder,
                    train,
                    test,
                    budget,
                    [readable[s.indices] for s in choices[:supervised_draws]],
                    view=view,
                    epochs=supervised_epochs,
                    min_steps=supervised_min_steps,
                    max_bad_fraction=limit,
                    seed=seed,
                    verbose=verbose,
                )
            )
    order = [*selections, evaluation_rows.UNLABELED]
    rows.sort(key=lambda row: order.index(row["labels"]))
    files.write_json(
        os.path.join(run, "evaluation.json"),
        {
            "rows": rows,
            "label_lists": _store_lists(run, selections, trained[0].index),
            "versions": runs.versions(),
        },
    )
    runs.update(run, evaluation=rows)
    if verbose:
        print(table(rows))
        for row in rows:
            if row["probe"] == "augmented":
                print(f"\n{row['features']}, {row['labels']}: {row['protocol']}")
    run_report.write(run, test, trained[1], rows, seed=seed)
    return rows


def _check_labels(source, part, verbose):
    """Raises unless some images have a label; says how many, if not all of them."""
    rows = labels_lib.labelled(source)
    if not len(rows):
        missing = "images" if source is None else "labels"
        raise ValueError(
            f"The evaluation needs labelled {part} images, but there are no "
            f"{missing}; give --validation_data or --validation_split, and "
            "--labels=folders where folders are classes."
        )
    if verbose and len(rows) < source.num_images:
        print(
            f"Evaluation: the {len(rows):,} of {source.num_images:,} {part} images of "
            f"{source.name} that have a label"
        )


def _training_view(settings, preprocessing):
    """The first view of the run's recipe; a recipe without a name is not stored."""
    name = settings["recipe"]
    if name is not None and name not in recipes.RECIPES:
        logging.warning(
            "The run's own recipe (%s) is not stored with it: the supervised baseline "
            "and the augmented probe use random crops and flips.",
            name,
        )
        return supervised.crop_and_flip(preprocessing)[0]
    return resolve.recipe(
        name, settings["method"], settings["hparams"], settings["image_size"]
    )[0]


def untrained(encoder, seed):
    """The same architecture with fresh random weights."""
    keras.utils.set_random_seed(seed)
    return type(encoder).from_config(encoder.get_config())


def table(rows):
    """The evaluation as text: a line per budget and kind, a column per probe."""
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    wide = max(18, *(len(row["features"]) + 2 for row in rows))
    lines = [f"{'labels':<14}{'features':<{wide}}"]
    lines[0] += "".join(f"{p:>16}" for p in probes)
    for budget in dict.fromkeys(row["labels"] for row in rows):
        some = [row for row in rows if row["labels"] == budget]
        for kind in dict.fromkeys(row["features"] for row in some):
            cells = ""
            for probe in probes:
                found = [
                    r for r in some if (r["features"], r["probe"]) == (kind, probe)
                ]
                cells += f"{_cell(found[0]) if found else '-':>16}"
            lines.append(f"{budget:<14}{kind:<{wide}}{cells}")
    return "\n".join(lines)


def _cell(row):
    text = f"{100 * row['accuracy']:.1f}"
    return text + (f" ± {100 * row['std']:.1f}" if row["draws"] > 1 else "")


def _check_trained(run):
    """An encoder that never saw a gradient step has nothing to evaluate."""
    record = runs.record_of(run)
    if not (record.get("results") or {}).get("steps"):
        raise ValueError(
            f"The encoder of {run!r} has not been trained: its run.json records no "
            "step. Finish the pre-training; the untrained encoder is a baseline of "
            "every evaluation (random_encoder)."
        )


def _check_choices(baselines, probe, options, dense):
    for name, values, allowed in (
        ("baseline", baselines, BASELINES),
        ("probe", [probe], PROBES),
        ("probe_option", options, evaluation_rows.PROBE_OPTIONS),
        ("probe_option", dense, evaluation_rows.DENSE_OPTIONS),
    ):
        unknown = [value for value in values if value not in allowed]
        if unknown:
            raise ValueError(
                f"{name} {unknown[0]!r} received, expected some of "
                f"{', '.join(allowed)}."
            )
    augmented_probe.check(**options)
    dense_probe.check(**dense)
    if probe == "mlp" and not np.size(dense.get("units", 512)):
        raise ValueError(
            f"units={dense['units']!r} received, but the MLP needs hidden units; give "
            "one or more sizes, such as units=512 or units=(512,256)."
        )


def _store_lists(run, selections, index):
    """Writes which images were labelled to `labels/`; returns the lists' hashes.

    Args:
        run: the folder.
        selections: dict of a budget to its `labels.Selection`s of rows.
        index: the position of each row in the source.
    """
    folder = os.path.join(run, "labels")
    os.makedirs(folder, exist_ok=True)
    hashes = {}
    for name, choices in selections.items():
        for draw, selection in enumerate(choices):
            file = f"{name.replace(' ', '_').replace('%', 'percent')}-{draw}.json"
            of_source = dataclasses.replace(selection, indices=index[selection.indices])
            of_source.save(os.path.join(folder, file))
        hashes[name] = [selection.sha256 for selection in choices]
    return hashes

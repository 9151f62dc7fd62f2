"""How good an encoder is: kNN, linear probes and baselines, from one call."""

import contextlib
import itertools
from typing import Any

from tfssl import locks
from tfssl.data import labels as labels_lib
from tfssl.evaluation import probes as probes_lib
from tfssl.tasks import (
    arguments,
    chosen_probes,
    evaluation_features,
    evaluation_memory,
    evaluation_results,
    groups,
    judged_images,
    label_budgets,
    runs,
)
from tfssl.tasks.arguments import Path


@arguments.task
def evaluate(
    run: Path | Any,
    *,
    images: judged_images.JudgedImages,
    amounts: label_budgets.LabelBudgets,
    chosen: chosen_probes.ChosenProbes,
    compared: chosen_probes.Baselines,
    out: Path | None = None,
    preprocessing: Any = None,
    batch_size: groups.Count = 256,
    seed: groups.Seed = 0,
    verbose: groups.Verbose = 1,
):
    """Evaluates an encoder against baselines and writes a report.

    Every number is accuracy on the validation images, which no choice has seen:
    the linear probe picks its penalty on held-out training images. Purity and NMI of
    clusters are of the validation images too.

    Args:
        run: folder of a run, or a `.keras` file. In Python also an encoder of
            `tfssl.load`, or any Keras model together with `preprocessing`.
        images: see `judged_images.JudgedImages`.
        amounts: see `label_budgets.LabelBudgets`.
        chosen: see `chosen_probes.ChosenProbes`.
        compared: see `chosen_probes.Baselines`.
        out: folder for `evaluation.json`, `report.html` and `labels/`; None is the
            run's own, and for an encoder that is not the folder of a run none: the rows
            are returned and printed only. An evaluation that ends early leaves the rows
            that it has in `evaluation_unfinished.json`.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        batch_size: images per forward pass.
        seed: seed of draws, the random encoder and the supervised training.
        verbose: 0 silent, 1 each number as it is there, progress and a table.

    Returns:
        List of dicts, one per number: `features`, `labels`, `probe`, `accuracy`,
        `std`, `draws`, `protocol` (of `probe` "purity" and "NMI", `accuracy` is that
        number); the augmented probe's also `top5`, `rate`,
        `weight_decay` and `validation`, those of a stage also `encoder` and `stage`,
        and of the MLP and stages `l2` and `validation`. Also in `evaluation.json` and
        `report.html`.

    Raises:
        ValueError: if there is no encoder or it has not trained a step, images,
            labels or preprocessing are missing, or features do not fit into memory.
    """
    folder = runs.folder_of(run)
    into = folder if out is None else out
    with contextlib.nullcontext() if into is None else locks.hold(into):
        encoder, preprocessing = runs.encoder_of(run, preprocessing)
        probes, stages = chosen.make(), chosen.stages_of(encoder)
        compared.check()
        if not probes and not compared.starts():
            raise ValueError(
                "probes=() received and nothing else that gives a number, expected one "
                f"or more of {', '.join(probes_lib.PROBES)}."
            )
        setting = images.open(folder, preprocessing, seed=seed, verbose=verbose)
        asked = amounts.asked(setting.train)
        chosen.check_clusters(len(labels_lib.labelled(setting.test)))

        others, of_architecture = compared.of(encoder, seed)
        networks = {"pre-trained": encoder} | others
        left_out, free = evaluation_memory.shared_out(
            compared,
            networks,
            stages,
            probes,
            setting,
            limit=chosen.stage_features,
        )
        setting = evaluation_memory.with_kept_images(setting, free)
        subjects = evaluation_features.of_networks(
            networks,
            setting,
            raw_pixels="raw_pixels" in {*compared.names} - {*left_out},
            batch_size=batch_size,
        )
        judged = subjects[0]
        # Unreadable images are known by now.
        drawn = amounts.drawn(asked, judged.bank, setting.train.class_names, seed)
        parts = evaluation_features.of_stages(
            stages,
            networks,
            setting,
            limit=chosen.stage_features,
            batch_size=batch_size,
        )
        rows = itertools.chain(
            _rows(probes, subjects, drawn),
            _rows([probe for probe in probes if probe.of_stages], parts, drawn),
            _rows(of_architecture, [judged], drawn),
        )
        rows = evaluation_results.collected(rows, into, run, judged, verbose)
        order = [budget.name for budget in drawn]
        rows.sort(key=lambda row: [*order, row["labels"]].index(row["labels"]))
        if into is not None:
            evaluation_results.write(into, run, judged, rows, drawn, left_out)
        if verbose:
            evaluation_results.show(rows, into)
        return rows


def _rows(probes, subjects, budgets):
    for subject in subjects:
        for probe in probes:
            yield from probe.rows(subject, budgets)
        del subject  # The features of a stage are large, and the next ones follow.

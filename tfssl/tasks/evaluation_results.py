"""What an evaluation leaves behind: a table, and files in a folder."""

import dataclasses
import os
import re

import tensorflow as tf

from tfssl import files
from tfssl.tasks import run_report, runs

RESULTS, LISTS = "evaluation.json", "labels"
UNFINISHED = "evaluation_unfinished.json"  # A file of its own: nobody takes it for all.
# As `_store_lists` names them.
_LIST = re.compile(r"(\d+_per_class|[\d.e+-]+_percent|list_.*)-\d+\.json")


def collected(rows, folder, run, judged, verbose):
    """All rows of an evaluation, each kept as soon as it is there.

    An evaluation that ends before its last row leaves those it has in
    `evaluation_unfinished.json`, which `write` removes.

    Args:
        rows: iterable of them.
        folder: where to, or None.
        run: see `write`.
        judged: see `write`.
        verbose: 0 silent, 1 a line for each.

    Returns:
        List of the rows.
    """
    found = []
    for row in rows:
        found.append(row)
        if verbose:
            told = f"{row['features']}, {row['labels']}: {row['probe']} {_cell(row)}"
            print(told, flush=True)
        if folder is not None:
            path = os.path.join(folder, UNFINISHED)
            with files.failures_logged(path):
                files.write_json(path, _of(run, judged) | {"rows": found})
    return found


def _of(run, judged):
    """What was judged, and on which images."""
    setting = judged.setting
    return {
        "encoder": run if isinstance(run, str) else judged.network.name,
        "images": {"data": setting.train.name, "validation_data": setting.test.name},
    }


def write(folder, run, judged, rows, budgets, left_out):
    """Writes `evaluation.json`, `labels/` and `report.html`.

    The evaluation of a run in its own folder is noted in its `run.json` too.

    Args:
        folder: where to.
        run: what was judged, as `tasks.evaluate` takes it.
        judged: `judging.Subject` of the trained encoder.
        rows: of the evaluation.
        budgets: list of `budgets.Budget`.
        left_out: dict from the name of a baseline to the reason why it is not there.
    """
    of = _of(run, judged)
    files.write_json(
        os.path.join(folder, RESULTS),
        of
        | {
            "rows": rows,
            "label_lists": _store_lists(folder, budgets, judged),
            "versions": runs.versions(),
        }
        | ({"left_out": left_out} if left_out else {}),
    )
    unfinished = os.path.join(folder, UNFINISHED)
    if tf.io.gfile.exists(unfinished):
        tf.io.gfile.remove(unfinished)
    own = runs.folder_of(run)
    if folder == own:
        runs.update(own, evaluation=rows, evaluated_on=of["images"])
    run_report.write(folder, own, judged, rows, notes=left_out.values())


def show(rows, folder):
    """Prints the table, and where the rest is."""
    print(table(rows))
    for row in rows:
        if "top5" in row:  # The table has no place for it; the protocol does.
            print(f"\n{row['features']}, {row['labels']}: {row['protocol']}")
    if folder is not None:
        print(f"Report: {os.path.join(folder, run_report.PAGE)}")


def table(rows):
    """The evaluation as text: a line per budget and kind, a column per probe."""
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    wide = max([18, *(len(row["features"]) + 2 for row in rows)])
    first = max([14, *(len(row["labels"]) + 2 for row in rows)])
    lines = [f"{'labels':<{first}}{'features':<{wide}}"]
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
            lines.append(f"{budget:<{first}}{kind:<{wide}}{cells}")
    return "\n".join(lines)


def _cell(row):
    text = f"{100 * row['accuracy']:.1f}"
    return text + (f" ± {100 * row['std']:.1f}" if row["draws"] > 1 else "")


def _store_lists(folder, budgets, judged):
    """Writes which images were labelled to `labels/`; returns the lists' hashes.

    Lists of an evaluation before go, but those that this one was given.

    Args:
        folder: where to make `labels/`.
        budgets: list of `budgets.Budget`, whose selections are of rows.
        judged: `judging.Subject` whose training images they choose from.
    """
    index, images = judged.bank.index, judged.setting.train.identity()
    hashes, names = {}, set()
    for budget in budgets:
        name = budget.name.replace(" ", "_").replace("%", "percent")
        for draw, selection in enumerate(budget.selections):
            of_source = dataclasses.replace(selection, indices=index[selection.indices])
            of_source.save(os.path.join(folder, LISTS, f"{name}-{draw}.json"), images)
            names.add(f"{name}-{draw}.json")
        hashes[budget.name] = [selection.sha256 for selection in budget.selections]
        names.add(budget.name.removeprefix("list "))
    for name in set(lists_in(folder)) - names:
        tf.io.gfile.remove(os.path.join(folder, LISTS, name))
    return hashes


def lists_in(folder):
    """Names of the files of `labels/` that are called as evaluations call theirs."""
    path = os.path.join(folder, LISTS)
    if not tf.io.gfile.isdir(path):
        return []
    return [name for name in tf.io.gfile.listdir(path) if _LIST.fullmatch(name)]

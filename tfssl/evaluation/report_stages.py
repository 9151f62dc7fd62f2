"""The part of a report that tells the stages of an encoder apart."""

from tfssl import templates
from tfssl.evaluation import charts, probes


def tables(rows):
    """Accuracies by stage: a table and a chart per probe and label budget.

    Args:
        rows: of the evaluation, or None; those with `stage` count. Stages are drawn in
            the order in which they come.

    Returns:
        List of dicts for `templates/report.html.jinja`; empty without such rows.
    """
    panels = {}
    for row in rows or ():
        if row.get("stage"):
            panels.setdefault((row["probe"], row["labels"]), []).append(row)
    return [_table(*panel, some) for panel, some in panels.items()]


def _table(probe, labels, rows):
    title = f"{probes.title(probe)}, labels: {labels}, top-1 accuracy in %"
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    networks = list(dict.fromkeys(row["encoder"] for row in rows))
    found = {(row["encoder"], row["stage"]): row["accuracy"] for row in rows}
    lines = {
        network: [
            (number, 100 * found[network, stage])
            for number, stage in enumerate(stages, start=1)
            if (network, stage) in found
        ]
        for network in networks
    }
    return {
        "title": title,
        "corner": "encoder \\ stage",
        "columns": stages,
        "rows": [
            {"name": network, "cells": _cells(found, network, stages)}
            for network in networks
        ],
        "chart": templates.ready(charts.line_chart(title, lines, step_name="stage")),
    }


def _cells(found, network, stages):
    """Percent by stage, the best set off; the first of equal ones."""
    best = max(stages, key=lambda stage: found.get((network, stage), -1.0))
    return [
        {
            "percent": f"{100 * found[network, stage]:.1f}",
            "spread": "",
            "best": stage == best,
            "width": None,
        }
        if (network, stage) in found
        else None
        for stage in stages
    ]

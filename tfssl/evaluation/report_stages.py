"""The part of a report that tells the stages of an encoder apart."""

from tfssl.evaluation import charts

_TITLES = {
    "linear": "Linear probe",
    "augmented": "Linear probe trained on augmented images",
    "mlp": "MLP probe",
}


def section(rows):
    """Accuracies by stage: a table and a chart per probe and label budget.

    Args:
        rows: of the evaluation, or None; those with `stage` count. Stages are drawn in
            the order in which they come.

    Returns:
        str, HTML; empty without such rows.
    """
    panels = {}
    for row in rows or ():
        if row.get("stage"):
            panels.setdefault((row["probe"], row["labels"]), []).append(row)
    return "".join(_panel(*panel, some) for panel, some in panels.items())


def _panel(probe, labels, rows):
    title = f"{_TITLES.get(probe, probe)}, labels: {labels}, top-1 accuracy in %"
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    networks = list(dict.fromkeys(row["encoder"] for row in rows))
    found = {(row["encoder"], row["stage"]): row["accuracy"] for row in rows}
    best = {network: _best(found, network, stages) for network in networks}
    head = "".join(f'<th class="number">{charts.escape(stage)}' for stage in stages)
    body = ""
    for network in networks:
        body += f"<tr><th scope=row>{charts.escape(network)}</th>"
        for stage in stages:
            value = found.get((network, stage))
            mark = " best" if stage == best[network] else ""
            text = "–" if value is None else f"{100 * value:.1f}"
            body += f'<td class="number{mark}">{text}</td>'
        body += "</tr>"
    lines = {
        network: [
            (number, 100 * found[network, stage])
            for number, stage in enumerate(stages, start=1)
            if (network, stage) in found
        ]
        for network in networks
    }
    chart = charts.line_chart(title, lines, step_name="stage")
    return (
        f'<h3>{charts.escape(title)}</h3><div class="wide"><table class="overview">'
        f"<thead><tr><th>encoder \\ stage{head}</tr></thead><tbody>{body}</tbody>"
        f'</table></div><div class="panels">{chart}</div>'
    )


def _best(found, network, stages):
    """The stage where a network is best; the first of equal ones."""
    return max(stages, key=lambda stage: found.get((network, stage), -1.0))

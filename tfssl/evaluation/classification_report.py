"""One HTML file that tells how a classifier does: scores, confusions, mistakes.

Self-contained, as `report` is, whose page and style it shares.
`templates/classification.html.jinja` says how it looks.
"""

import os

import numpy as np

from tfssl import files, templates
from tfssl.evaluation import charts, classification, pictures

_TEMPLATES = templates.html("tfssl.evaluation")
# A larger matrix cannot be read; the most confused pairs take its place.
_MATRIX_CLASSES = 20
_PAIRS = 20
_CLASSES = 40
MISTAKES = 24
# Of a line of metrics.jsonl: places, not curves.
_PLACES = ("step", "epoch")


def write(
    path,
    *,
    title,
    outputs,
    labels,
    class_names=None,
    images=None,
    image_names=None,
    histories=None,
    settings=None,
    notes=None,
):
    """Writes the page, replacing the file atomically.

    Args:
        path: of the HTML file.
        title: heading.
        outputs: dict of a classifier's name to its probabilities, float `(n,
            classes)`. The page is about the first; of the others (the same network
            from scratch) it has the scores.
        labels: int `(n,)`, one class per image, negative where unknown; or `(n,
            classes)` of 1, 0 and -1, any number of classes per image.
        class_names: of the columns of `outputs`; None numbers them.
        images: function of int64 rows of `outputs` that gives their pictures, a list of
            uint8 arrays `(height, width[, channels])`; None shows no mistakes. With
            several classes per image none are shown.
        image_names: function of the same rows that gives what to call each image, a
            list of texts, of a file its path; None calls it by its row.
        histories: dict of name to a list of lines as in metrics.jsonl; curves of the
            same key share a panel.
        settings: dict of name to value.
        notes: list of texts.

    Returns:
        `path`.

    Raises:
        ValueError: as `classification.single_label` and `multi_label`, and unless there
            is a name for every class.
    """
    outputs = {name: np.asarray(given) for name, given in outputs.items()}
    labels = np.asarray(labels)
    first = next(iter(outputs.values()))
    names = _names(class_names, first.shape[-1])
    one_of_several = next(iter(outputs)) if len(outputs) > 1 else None
    of_kind = _of_several if labels.ndim == 2 else _of_one
    text = _TEMPLATES.get_template("classification.html.jinja").render(
        title=title,
        curves=_curves(histories or {}),
        settings=settings,
        notes=notes,
        of=one_of_several,
        **of_kind(outputs, labels, names, images, image_names),
    )
    files.write_text(path, text)
    return os.fspath(path)


def _names(class_names, classes):
    if class_names is None:
        return [str(number) for number in range(classes)]
    if len(class_names) != classes:
        raise ValueError(
            f"{len(class_names)} class names received for outputs of {classes} classes."
        )
    return [str(name) for name in class_names]


def _of_one(outputs, labels, names, images, image_names):
    """The parts of the page for one class per image."""
    found = {n: classification.single_label(x, labels) for n, x in outputs.items()}
    columns = {
        "top-1": [s.top1 for s in found.values()],
        "top-5": [s.top5 for s in found.values()],
        "mean per class": [s.mean_per_class for s in found.values()],
    }
    if columns["top-5"][0] is None:
        del columns["top-5"]
    judged = next(iter(found.values()))
    total = judged.images
    left_out = f", {judged.unlabelled:,} unlabelled ones left out"
    small = len(names) <= _MATRIX_CLASSES
    return {
        "scores": _scores(found, columns),
        "images": f"{total.sum():,} images of {(total > 0).sum():,} classes"
        f"{left_out if judged.unlabelled else ''}.",
        "matrix": _matrix(judged.confusion, names) if small else None,
        "pairs": None if small else _pairs(judged, names),
        "classes": _classes(names, total, {"%": judged.per_class}),
        "mistakes": _mistakes(
            next(iter(outputs.values())), labels, names, images, image_names
        ),
    }


def _of_several(outputs, labels, names, images, image_names):
    """The parts of the page for any number of classes per image."""
    found = {n: classification.multi_label(x, labels) for n, x in outputs.items()}
    columns = {
        "mAP": [s.mean_ap for s in found.values()],
        "mAP, 11 points": [s.mean_ap_11_points for s in found.values()],
    }
    judged = next(iter(found.values()))
    left_out = judged.left_out.sum()
    unknown = f"; {left_out:,} unknown or difficult labels left out"
    return {
        "scores": _scores(found, columns),
        "images": f"{len(labels):,} images, {judged.positives.sum():,} labels of "
        f"{(judged.positives > 0).sum():,} classes{unknown if left_out else ''}.",
        "matrix": None,
        "pairs": None,
        "classes": _classes(
            names,
            judged.positives,
            {"AP": judged.ap, "AP, 11 points": judged.ap_11_points},
        ),
        "mistakes": None,
    }


def _percent(share):
    return f"{100 * share:.1f}"


def _scores(found, columns):
    rows = zip(found, zip(*columns.values()))
    return {
        "columns": list(columns),
        "rows": [
            {"name": name, "cells": [_percent(cell) for cell in cells]}
            for name, cells in rows
        ],
    }


def _matrix(confusion, names):
    total = np.maximum(confusion.sum(axis=1), 1)

    def cell(row, column):
        count = int(confusion[row, column])
        return {
            "count": f"{count:,}" if count else "",
            # Pale enough for the number on it.
            "share": f"{60 * count / total[row]:.0f}",
            "mark": "right" if row == column else "",
            "told": f"{names[row]}, said {names[column]}: {count:,}",
        }

    places = range(len(names))
    return {
        "names": names,
        "rows": [
            {"name": names[row], "cells": [cell(row, column) for column in places]}
            for row in places
        ],
    }


def _pairs(judged, names):
    wrong = judged.cells[judged.cells[:, 0] != judged.cells[:, 1]]
    order = np.argsort(-wrong[:, 2], kind="stable")[:_PAIRS]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": f"{count:,}",
            "percent": _percent(count / judged.images[true]),
        }
        for true, predicted, count in wrong[order]
    ]


def _classes(names, images, columns):
    """The classes that occur, those with the lowest scores first."""
    scores = next(iter(columns.values()))
    occur = np.flatnonzero(~np.isnan(scores))
    order = occur[np.argsort(scores[occur], kind="stable")]
    missing = len(names) - len(occur)
    told = "The lowest first."
    if len(order) > _CLASSES:
        told = f"The {_CLASSES} lowest of {len(order):,}."
    if missing:
        told += f" {missing:,} of the classifier's classes have no image."
    return {
        "told": told,
        "columns": list(columns),
        "rows": [
            {
                "name": names[row],
                "images": f"{images[row]:,}",
                "cells": [_percent(column[row]) for column in columns.values()],
            }
            for row in order[:_CLASSES]
        ],
    }


def _mistakes(probabilities, labels, names, images, image_names):
    if images is None:
        return None
    found = classification.mistakes(probabilities, labels, most=MISTAKES)
    if not len(found):
        return None
    called = image_names(found.rows) if image_names else map(str, found.rows)
    tiles = []
    parts = (found.predicted, found.true, found.probability, images(found.rows), called)
    for predicted, true, probability, image, name in zip(*parts):
        name = name.encode(errors="replace").decode()  # Files may be called anything.
        tile = {
            "predicted": names[predicted],
            "true": names[true],
            "percent": f"{100 * probability:.0f}",
            "url": pictures.data_url(image),
            "image": name,
            "short": os.path.basename(name) or name,
        }
        told = "{image}: said {predicted} ({percent} %), is {true}".format(**tile)
        tiles.append(tile | {"told": told})
    return tiles


def _curves(histories):
    panels = {}
    for name, lines in histories.items():
        for line in lines:
            place = line.get("epoch", line.get("step"))
            for key, value in line.items():
                if key not in _PLACES and _is_number(value):
                    points = panels.setdefault(key, {}).setdefault(name, [])
                    points.append((place, value))
    return [
        templates.ready(
            charts.line_chart(key.replace("_", " "), series, step_name="epoch")
        )
        for key, series in panels.items()
    ]


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)

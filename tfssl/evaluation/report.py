"""One HTML file that tells a run: numbers, curves, pictures, settings.

Self-contained (inline SVG and PNG, no script, no request), readable in light, dark
and print. `templates/report.html.jinja` says how it looks; every text that comes
from outside is escaped there, and in `charts`.
"""

import dataclasses
import os

import numpy as np
import sklearn
import tensorflow as tf
import threadpoolctl

from tfssl import files, kmeans, templates
from tfssl.evaluation import (
    budgets,
    charts,
    clusters,
    knn,
    pictures,
    probes,
    report_stages,
)

_TEMPLATES = templates.html("tfssl.evaluation")


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Features in the plane, made by `embed_2d`.

    Attributes:
        points: float32 `(n, 2)`.
        labels: int64 `(n,)`, -1 where unknown.
        rows: int64 `(n,)`, rows of the features they were made from.
        description: how they were made, one line.
    """

    points: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    description: str


def embed_2d(features, *, method="tsne", max_points=1000, seed=0):
    """Draws features in the plane.

    Args:
        features: `Features`.
        method: `"tsne"` (neighbourhoods; cosine distance, 50 principal components
            first) or `"pca"` (the two largest directions of the unit-norm rows).
        max_points: cap; above it the same random rows are taken each time. t-SNE
            takes about 3 seconds for 1,000 and grows faster than linearly.
        seed: of the choice of rows and of t-SNE.

    Returns:
        `Embedding`.

    Raises:
        ValueError: if `method` is unknown or there are fewer than 3 features.
    """
    if method not in ("tsne", "pca"):
        raise ValueError(f'Unknown embedding {method!r}; use "tsne" or "pca".')
    if len(features) < 3:
        raise ValueError(f"An embedding needs 3 features or more, got {len(features)}.")
    rows = np.arange(len(features))
    if len(rows) > max_points:
        rows = np.random.default_rng(seed).choice(rows, max_points, replace=False)
        rows.sort()
    values = kmeans.unit_norm(features.values[rows])
    components = min(50 if method == "tsne" else 2, len(rows), values.shape[1])
    solver = sklearn.decomposition.PCA(components, svd_solver="full")
    points = solver.fit_transform(values)
    if points.shape[1] < 2:  # Features of one number: draw them on a line.
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    name = "PCA"
    if method == "tsne":
        name = "t-SNE"
        solver = sklearn.manifold.TSNE(
            perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed
        )
        # On a busy machine its threads wait for each other, up to 20 times longer.
        with threadpoolctl.threadpool_limits(1):
            points = solver.fit_transform(points)
    return Embedding(
        np.asarray(points, np.float32),
        features.labels[rows],
        rows,
        f"{name} of {len(rows):,} of {len(features):,} images, unit-norm features",
    )


def nearest(features, query, k):
    """The images nearest to some of them, themselves left out.

    Args:
        features: `Features`.
        query: int `(num_queries,)`, rows of `features`.
        k: neighbours per query, at most `len(features) - 1`.

    Returns:
        `(rows, similarity)`: `(num_queries, k)`, nearest first.
    """
    query = np.asarray(query)
    if not 1 <= k < len(features):
        raise ValueError(
            f"k={k} nearest images were asked of {len(features) - 1} others; give k "
            f"from 1 to {len(features) - 1}."
        )
    rows, similarity = knn.nearest(features.values, features.values[query], k=k + 1)
    # A query with a twin may not be its own first neighbour, nor among them at all.
    keep = rows != query[:, np.newaxis]
    keep[keep.all(axis=1), -1] = False
    return rows[keep].reshape(-1, k), similarity[keep].reshape(-1, k)


def write(
    path,
    *,
    title,
    settings=None,
    curves=None,
    views_png=None,
    neighbors=None,
    attention=None,
    embedding=None,
    table=None,
    notes=None,
    class_names=None,
    sheets=None,
    step_name="step",
):
    """Writes the report, replacing the file atomically. Every part is optional.

    Args:
        path: of the HTML file.
        title: heading.
        settings: dict of name to value.
        curves: dict of name to a list of `(step, value)`. `"panel/name"` puts a line
            into a shared panel; `"val_name"` joins the panel of `"name"`.
        views_png: contact sheet of training views: PNG bytes, or a path.
        neighbors: list of dicts `{"query": tile, "neighbors": [tile, …]}`. A tile is
            `{"image": uint8 array (h, w[, c]) or PNG bytes, "label": text or number,
            "similarity": number}`; only `image` is needed.
        attention: list of pairs `(image, maps)`, an image as of a tile and what a
            vision transformer looks at in it, `(heads, rows, columns)` of numbers from
            0, see `evaluation.attention.maps`.
        embedding: `Embedding`, or a pair of points `(n, 2)` and labels `(n,)`.
        table: list of row dicts with `features`, `labels`, `protocol`, `accuracy`
            (in [0, 1]), and optionally `probe`, `std` and `draws`. Where `probe` is
            "purity" or "NMI", `accuracy` is that number. Rows with `stage` and
            `encoder` get tables and curves of their own.
        notes: text or list of texts.
        class_names: names of the labels of the embedding.
        sheets: dict of a heading to a picture: pixels uint8 `(h, w, 1 or 3)`, or the
            path of a PNG file.
        step_name: what the curves' horizontal axis counts.

    Returns:
        `path`.
    """
    text = _TEMPLATES.get_template("report.html.jinja").render(
        title=title,
        comparisons=_comparisons(table),
        stages=report_stages.tables(table),
        curves=_curves(curves, step_name),
        neighbors=_neighbors(neighbors),
        attention=_attention(attention),
        embedding=_embedding(embedding, class_names),
        views=_sheet(views_png),
        sheets=[
            {"title": title} | _sheet(picture)
            for title, picture in (sheets or {}).items()
        ],
        protocols=_protocols(table),
        settings=settings,
        notes=[notes] if notes and isinstance(notes, str) else notes,
    )
    files.write_text(path, text)
    return os.fspath(path)


def _protocols(rows):
    """Every row of the table, with the line that says how it was measured."""
    return [
        {key: row.get(key, "") for key in ("features", "labels", "protocol")}
        | _accuracy(row)
        for row in rows or ()
    ]


def _comparisons(rows):
    """A small table per kind of probe: features down, label budgets across."""
    kinds = {}
    for row in rows or ():
        if not row.get("stage"):
            kinds.setdefault(row.get("probe", "linear"), []).append(row)
    if "linear" in kinds:
        # Beside each other: what the labels give with pre-training and without.
        kinds["linear"] += kinds.pop("end to end", [])
    return [
        _comparison(f"{_heading(kind, kinds[kind])} in %", kinds[kind])
        for kind in sorted(kinds, key=probes.place)
    ]


def _heading(kind, rows):
    if kind in clusters.Clusters.titles:
        return probes.title(kind)
    others = [row["features"] for row in rows if row.get("probe", kind) != kind]
    told = " and ".join(dict.fromkeys(others))
    also = f" ({told}: trained end to end)" if others else ""
    return f"{probes.title(kind)}{also}, top-1 accuracy"


def _comparison(title, rows):
    """Accuracies in percent, the best of each column set off."""
    columns = list(dict.fromkeys(str(row.get("labels", "")) for row in rows))
    names = list(dict.fromkeys(str(row.get("features", "")) for row in rows))
    cells = {(str(r.get("features", "")), str(r.get("labels", ""))): r for r in rows}
    best = {
        column: max(_rounded(row) for (_, c), row in cells.items() if c == column)
        for column in columns
    }

    # Beside numbers of several draws of the labels, one of a single draw says so.
    drawn = {column for (_, column), row in cells.items() if _accuracy(row)["spread"]}

    def cell(name, column):
        row = cells.get((name, column))
        if row is None:
            return None
        width = 100 * min(max(row["accuracy"], 0), 1)
        told = _accuracy(row)
        if column in drawn and not told["spread"]:
            told["spread"] = "1 draw"
        return told | {
            "best": _rounded(row) == best[column],
            "width": f"{width:.0f}",
        }

    return {
        "title": title,
        "corner": "features \\ labels",
        "columns": columns,
        "rows": [
            {"name": name, "cells": [cell(name, column) for column in columns]}
            for name in names
        ],
        "chart": _by_share(title, rows),
    }


def _by_share(title, rows):
    """Accuracy by the share of the labels, of two shares or more; else None."""
    lines = {}
    for row in rows:
        share = budgets.share(str(row.get("labels", "")))
        if share:
            line = lines.setdefault(str(row.get("features", "")), [])
            line.append((share, 100 * row["accuracy"]))
    if len({share for line in lines.values() for share, _ in line}) < 2:
        return None
    chart = charts.line_chart(title, lines, step_name="labels in %", logarithmic=True)
    return templates.ready(chart)


def _rounded(row):
    return round(row["accuracy"], 3)


def _accuracy(row):
    spread = ""
    draws = row.get("draws") or 1
    if row.get("std") is not None and draws > 1:
        spread = f"± {100 * row['std']:.1f}, {draws} draws"
    return {"percent": f"{100 * row['accuracy']:.1f}", "spread": spread}


def _curves(curves, step_name):
    panels = {}
    for name, points in (curves or {}).items():
        if not points:
            continue
        panel, _, line = str(name).rpartition("/")
        if not panel:
            base = line.removeprefix("val_")
            panel = base if base in curves else line
        panel, line = panel.replace("_", " "), line.replace("_", " ")
        panels.setdefault(panel, {})[line] = points
    return [
        templates.ready(charts.line_chart(panel, lines, step_name=step_name))
        for panel, lines in panels.items()
    ]


def _neighbors(rows):
    if not rows:
        return None
    shown, marks = [], []
    for row in rows:
        label = row["query"].get("label")
        tiles = []
        for tile in row["neighbors"]:
            mark = ""
            if label is not None and tile.get("label") is not None:
                mark = "same" if tile["label"] == label else "other"
                marks.append(mark)
            tiles.append(_tile(tile) | {"mark": mark})
        shown.append({"query": _tile(row["query"]), "tiles": tiles})
    same = f"{100 * marks.count('same') / len(marks):.0f}" if marks else None
    return {"rows": shown, "same_class": same}


def _tile(tile):
    label = "" if tile.get("label") is None else str(tile["label"])
    similarity, number, told = tile.get("similarity"), "", ""
    if similarity is not None:
        number, told = f"{similarity:.2f}", f"similarity {similarity:.3f}"
    return {
        "label": label,
        "similarity": number,
        "alt": f"{label} {told}".strip(),
        "url": pictures.data_url(tile["image"]),
    }


def _attention(pairs):
    """Every image and its maps as pictures, each map as bright as its largest number.

    In rows like those of the neighbours, without their marks.
    """
    shown = []
    for image, maps in pairs or ():
        pixels = [
            np.round(255 * one / max(one.max(), 1e-12)).astype(np.uint8) for one in maps
        ]
        tiles = [
            _tile({"image": one, "label": f"head {number}"})
            for number, one in enumerate(pixels, start=1)
        ]
        shown.append({"image": _tile({"image": image}), "tiles": tiles})
    return shown


def _embedding(embedding, class_names):
    if embedding is None:
        return None
    description = ""
    if isinstance(embedding, Embedding):
        points, labels = embedding.points, embedding.labels
        description = embedding.description
    else:
        points, labels = embedding
    names = [str(name) for name in class_names] if class_names is not None else []
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        names, labels = np.unique(labels.astype(str), return_inverse=True)
    elif not names:
        names = [str(label) for label in range(max(labels.max(initial=0) + 1, 0))]
    chart = charts.scatter(points, labels, names, label=f"Scatter plot. {description}")
    return {"description": description, "chart": templates.ready(chart)}


def _sheet(png):
    if png is None:
        return None
    if isinstance(png, str | os.PathLike):
        with tf.io.gfile.GFile(os.fspath(png), "rb") as file:
            png = file.read()
    if not isinstance(png, bytes):
        png = tf.io.encode_png(png).numpy()
    # The width stands at byte 16 of every PNG; small sheets are shown enlarged.
    width = int.from_bytes(png[16:20], "big")
    width *= min(max(640 // max(width, 1), 1), 3)
    return {"width": width, "url": pictures.data_url(png)}

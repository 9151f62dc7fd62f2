"""One HTML file that tells a run: numbers, curves, pictures, settings.

Self-contained (inline SVG and PNG, no script, no request), readable in light, dark
and print. Every text that comes from outside is escaped.
"""

import base64
import dataclasses
import os

import numpy as np
import tensorflow as tf
import threadpoolctl
from sklearn import decomposition, manifold

from tfssl import files, kmeans
from tfssl.evaluation import charts, knn, report_stages, report_style


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
    solver = decomposition.PCA(components, svd_solver="full")
    points = solver.fit_transform(values)
    if points.shape[1] < 2:  # Features of one number: draw them on a line.
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    name = "PCA"
    if method == "tsne":
        name = "t-SNE"
        solver = manifold.TSNE(
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
    embedding=None,
    table=None,
    notes=None,
    class_names=None,
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
        embedding: `Embedding`, or a pair of points `(n, 2)` and labels `(n,)`.
        table: list of row dicts with `features`, `labels`, `protocol`, `accuracy`
            (in [0, 1]), and optionally `probe`, `std` and `draws`. Where `probe` is
            "purity" or "NMI", `accuracy` is that number. Rows with `stage` and
            `encoder` get tables and curves of their own.
        notes: text or list of texts.
        class_names: names of the labels of the embedding.
        step_name: what the curves' horizontal axis counts.

    Returns:
        `path`.
    """
    sections = [
        ("Accuracy", _overview(table)),
        ("Stages of the encoder", report_stages.section(table)),
        ("Training curves", _curves(curves, step_name)),
        ("Nearest neighbours", _neighbors(neighbors)),
        ("The features in the plane", _embedding(embedding, class_names)),
        ("Training views", _views(views_png)),
        ("How each number was measured", _protocols(table)),
        ("Settings", _settings(settings)),
        ("Notes", _notes(notes)),
    ]
    body = "".join(
        f"<section><h2>{heading}</h2>{content}</section>"
        for heading, content in sections
        if content
    )
    title = charts.escape(title)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # The file cannot load anything, whatever a class or a folder is called.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{report_style.CSS}</style></head>"
        f"<body><main><header><h1>{title}</h1></header>{body}</main></body></html>\n"
    )
    files.write_text(path, text)
    return os.fspath(path)


def _protocols(rows):
    """Every row of the table, with the line that says how it was measured."""
    body = "".join(
        f"<tr><th scope=row>{charts.escape(row.get('features', ''))}</th>"
        f'<td class="fixed">{charts.escape(row.get("labels", ""))}</td>'
        f'<td class="number">{_accuracy(row)}</td>'
        f"<td>{charts.escape(row.get('protocol', ''))}</td></tr>"
        for row in rows or ()
    )
    return body and (
        '<div class="wide"><table class="protocols"><thead><tr><th>features<th>labels'
        '<th class="number">%<th>protocol</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _overview(rows):
    """A small table per kind of probe: features down, label budgets across."""
    titles = {
        "linear": "Linear probe (supervised: trained end to end), top-1 accuracy",
        "augmented": "Linear probe trained on augmented images, top-1 accuracy",
        "mlp": "MLP probe, top-1 accuracy",
        "knn": "Weighted kNN, top-1 accuracy",
        "purity": "Purity of k-means clusters",
        "nmi": "NMI of k-means clusters and classes",
    }
    kinds = {}
    for row in rows or ():
        if row.get("stage"):
            continue
        told = f"{row.get('probe', '')} {row.get('protocol', '')}".lower()
        kind = next((k for k in titles if k != "linear" and k in told), "linear")
        kinds.setdefault(kind, []).append(row)
    return "".join(_comparison(title, kinds.get(k)) for k, title in titles.items())


def _comparison(title, rows):
    """Accuracies in percent, the best of each column set off."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(str(row.get("labels", "")) for row in rows))
    names = list(dict.fromkeys(str(row.get("features", "")) for row in rows))
    cells = {(str(r.get("features", "")), str(r.get("labels", ""))): r for r in rows}
    best = {
        column: max(_rounded(row) for (_, c), row in cells.items() if c == column)
        for column in columns
    }
    head = "".join(f'<th class="number">{charts.escape(c)}' for c in columns)
    body = ""
    for name in names:
        body += f"<tr><th scope=row>{charts.escape(name)}</th>"
        for column in columns:
            row = cells.get((name, column))
            if row is None:
                body += '<td class="number muted">–</td>'
                continue
            mark = " best" if _rounded(row) == best[column] else ""
            width = 100 * min(max(row["accuracy"], 0), 1)
            body += (
                f'<td class="number{mark}">{_accuracy(row)}<i class="bar" '
                f'style="width:{width:.0f}%"></i></td>'
            )
        body += "</tr>"
    return (
        f'<h3>{title} in %</h3><div class="wide"><table class='
        f'"overview"><thead><tr><th>features \\ labels{head}</tr></thead><tbody>{body}'
        "</tbody></table></div>"
    )


def _rounded(row):
    return round(row["accuracy"], 3)


def _accuracy(row):
    text = f"{100 * row['accuracy']:.1f}"
    draws = row.get("draws") or 1
    if row.get("std") is None or draws < 2:
        return text
    return f"{text} <small>± {100 * row['std']:.1f}, {draws} draws</small>"


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
    if not panels:
        return ""
    charts_ = (
        charts.line_chart(panel, lines, step_name=step_name)
        for panel, lines in panels.items()
    )
    return f'<div class="panels">{"".join(charts_)}</div>'


def _neighbors(rows):
    if not rows:
        return ""
    known, same, body = 0, 0, ""
    for row in rows:
        label = row["query"].get("label")
        body += f'<tr><td class="query">{_tile(row["query"])}</td>'
        for tile in row["neighbors"]:
            mark = ""
            if label is not None and tile.get("label") is not None:
                known += 1
                same += tile["label"] == label
                mark = "same" if tile["label"] == label else "other"
            body += f'<td class="{mark}">{_tile(tile)}</td>'
        body += "</tr>"
    text = "The query is on the left; its nearest images by cosine similarity follow."
    if known:
        text += (
            f" {100 * same / known:.0f} % of the neighbours below have the query's "
            "class; the others are framed and marked ≠."
        )
    return (
        f'<p class="muted">{text}</p><div class="wide"><table class="neighbors">'
        f"<tbody>{body}</tbody></table></div>"
    )


def _tile(tile):
    label = "" if tile.get("label") is None else str(tile["label"])
    similarity = tile.get("similarity")
    number = "" if similarity is None else f"<small>{similarity:.2f}</small>"
    alt = charts.escape(f"{label} {number and f'similarity {similarity:.3f}'}".strip())
    return (
        f'<img alt="{alt}" title="{alt}" src="{_data_url(tile["image"])}">'
        f"<span>{charts.escape(label)} {number}</span>"
    )


def _embedding(embedding, class_names):
    if embedding is None:
        return ""
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
    return f'<p class="muted">{charts.escape(description)}</p>{chart}'


def _views(views_png):
    if views_png is None:
        return ""
    if isinstance(views_png, str | os.PathLike):
        with tf.io.gfile.GFile(os.fspath(views_png), "rb") as file:
            views_png = file.read()
    # The width stands at byte 16 of every PNG; small sheets are shown enlarged.
    width = int.from_bytes(views_png[16:20], "big")
    width *= min(max(640 // max(width, 1), 1), 3)
    return (
        f'<img class="sheet" width="{width}" alt="Contact sheet of training views" '
        f'src="{_data_url(views_png)}">'
    )


def _settings(settings):
    if not settings:
        return ""
    items = "".join(
        f"<div><dt>{charts.escape(name)}</dt><dd>{charts.escape(value)}</dd></div>"
        for name, value in settings.items()
    )
    return f'<dl class="settings">{items}</dl>'


def _notes(notes):
    if not notes:
        return ""
    notes = [notes] if isinstance(notes, str) else notes
    return "".join(f"<p>{charts.escape(note)}</p>" for note in notes)


def _data_url(image):
    """PNG bytes, or an array of pixels, as a data URL."""
    if not isinstance(image, bytes):
        image = np.asarray(image)
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"Images of a report are uint8 or uint16, got {image.dtype}; scale "
                "and round them first."
            )
        image = image[..., np.newaxis] if image.ndim == 2 else image
        if image.shape[-1] not in (1, 3, 4):  # 2, 5, 13 … channels: show the first.
            image = image[..., : 3 if image.shape[-1] > 3 else 1]
        image = tf.io.encode_png(image).numpy()
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")

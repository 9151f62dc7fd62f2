"""The report of an evaluation, put together from a run's folder and features."""

import os

import numpy as np

from tfssl import data as data_lib
from tfssl.evaluation import attention, report
from tfssl.tasks import drawn, epoch_judges, runs, teachers, tiles
from tfssl.training import history

PAGE = "report.html"

_QUERIES, _NEIGHBORS = 8, 6
_POINTS = 1000
# Curves that tell how training went, by the panel they are drawn in.
_CURVES = {
    "loss": "loss",
    "mutual_information": "mutual information, at least (nats)",
    "contrastive_accuracy": "contrastive accuracy",
    "cluster_accuracy": "cluster accuracy",
    "code_entropy": "entropy of an assignment (nats)",
    "prototypes_used": "prototypes used (perplexity)",
    "teacher_entropy": "entropy of a teacher's output (nats)",
    "teacher_kl": "KL of the student from the teacher (nats)",
    "image_information": "what outputs tell of images (nats; 0 = collapsed)",
    "cluster_nmi": "NMI with the clustering before",
    "kmeans_objective": "k-means objective per image",
    "largest_cluster": "largest cluster (images)",
    "smallest_cluster": "smallest cluster (images)",
    "empty_clusters": "empty clusters",
    "knn_accuracy": "kNN accuracy",
    "probe_accuracy": "online probe accuracy",
    "embedding_std": "embedding std (0 = collapsed)",
    "effective_rank": "effective rank",
    "largest_gradient": "largest value of a gradient in an epoch",
    "learning_rate": "learning rate",
    "images_per_second": "images per second",
    "input_wait_share": "share of time waiting for input",
}


def write(folder, run, judged, rows, *, notes=()):
    """Writes `report.html` into a folder.

    Args:
        folder: where to.
        run: folder of the run that was judged, whose curves and views are shown; None
            for an encoder that came from elsewhere.
        judged: `judging.Subject` of the trained encoder.
        rows: the evaluation, see `tasks.evaluate`.
        notes: further texts.

    Returns:
        Path of the report.
    """
    source, seed = judged.setting.test, judged.setting.seed
    title, settings, parts = _of_encoder(judged) if run is None else _of_run(run)
    parts["notes"] = [*parts["notes"], *notes]
    return report.write(
        os.path.join(folder, PAGE),
        title=_title(title, None if run is None else _learned_from(run), source.name),
        settings={k: v for k, v in settings.items() if v is not None},
        step_name="epoch",
        neighbors=_neighbors(source, judged.queries, seed),
        attention=_attention(judged),
        embedding=report.embed_2d(judged.queries, max_points=_POINTS, seed=seed),
        table=rows,
        class_names=source.class_names,
        **parts,
    )


def _title(name, learned, judged):
    """What was judged, on what, and what it was trained on where that is another."""
    learned, judged = (x and x.split("[")[0] for x in (learned, judged))
    if learned in (None, judged):
        return f"{name} on {judged}"
    return f"{name}, trained on {learned}, judged on {judged}"


def _learned_from(run):
    """The name of the images that a run was trained on, where it is known."""
    made = runs.record_of(run).get("made") or {}
    return made.get("images", {}).get("name")


def _of_run(run):
    """`(title, settings, further parts)` of the report of a run."""
    record = runs.record_of(run)
    views = os.path.join(run, "views.png")
    parts = {
        "curves": _curves(os.path.join(run, "metrics.jsonl")),
        "views_png": views if os.path.exists(views) else None,
        "notes": _notes(record),
        "sheets": drawn.sheets(run, record["settings"].get("method")),
    }
    settings = record["settings"] | record.get("versions", {})
    teacher = (record.get("made") or {}).get("teacher")
    if teacher:
        settings["teacher"] = f"{settings['teacher']} ({teachers.told(teacher)})"
    title = record["settings"].get("method", record.get("task"))
    return title, settings, parts


def _of_encoder(judged):
    """The same of an encoder that came from elsewhere."""
    name, preprocessing = judged.network.name, judged.setting.preprocessing
    settings = {"encoder": name} | preprocessing.get_config() | runs.versions()
    return name, settings, {"notes": _notes({})}


def _curves(path):
    curves = {}
    for line in history.read(path):
        for key, name in _CURVES.items():
            if key in line:
                curves.setdefault(name, []).append((line["epoch"], line[key]))
    return curves


def _neighbors(source, features, seed):
    """Some images and those nearest to them, by the trained features."""
    count = min(_QUERIES, len(features))
    k = min(_NEIGHBORS, len(features) - 1)
    queries = np.random.default_rng(seed).choice(len(features), count, replace=False)
    rows, similarity = report.nearest(features, queries, k)
    wanted = np.unique(np.concatenate([queries[:, None], rows], axis=1))
    pictures = tiles.of(source, features.index[wanted])
    pictures = dict(zip(wanted.tolist(), pictures))

    def tile(row, **extra):
        label = int(features.labels[row])
        name = source.class_names[label] if source.class_names and label >= 0 else label
        return {"image": pictures[int(row)], "label": name} | extra

    return [
        {
            "query": tile(query),
            "neighbors": [
                tile(r, similarity=float(s)) for r, s in zip(rows[i], similarity[i])
            ],
        }
        for i, query in enumerate(queries)
    ]


def _attention(judged):
    """Some images as the encoder takes them, and where it looks in each."""
    setting, features = judged.setting, judged.queries
    if not attention.has_maps(judged.network):
        return []
    rng = np.random.default_rng(setting.seed)
    rows = rng.choice(len(features), min(_QUERIES, len(features)), replace=False)
    wanted = features.index[np.sort(rows)]
    dataset = data_lib.labeled(
        setting.test, setting.preprocessing, batch_size=len(wanted), indices=wanted
    )
    images = next(iter(dataset))["image"].numpy()
    made = setting.preprocessing
    plain = np.clip(images * np.array(made.std) + np.array(made.mean), 0, 1)
    pixels = np.round(255 * plain).astype(np.uint8)
    return list(zip(pixels, attention.maps(judged.network, images)))


def _notes(record):
    notes = [
        "Accuracies are on validation images that no choice has seen. Choose "
        "checkpoints by kNN or a probe, never by the loss: it does not predict "
        "transfer.",
        *epoch_judges.earlier(record),
    ]
    bad = (record.get("results") or {}).get("bad_files")
    if bad:
        notes.append(f"{len(bad)} unreadable files were skipped: {', '.join(bad)}")
    return notes

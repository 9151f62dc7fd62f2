"""What a classifier came to: its scores on the validation images, and their page."""

import os

import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import pipeline
from tfssl.evaluation import classification as scores_lib
from tfssl.evaluation import classification_report as page
from tfssl.evaluation import features
from tfssl.tasks import epoch_judges, runs, tiles
from tfssl.training import monitors, validation

RESULTS, PAGE = "classification.json", "classification.html"
# Of more classes a matrix is mostly zeros, and a large file: of 1,000 it has 8 MB.
_MATRIX_CLASSES = 1000


def write(trained, labelled, training, verbose, teacher=None):
    """Writes `classification.json` and the report, on the chief, where it can.

    Args:
        trained: dict of a name to a `runs.Run`, in order; of the first the page tells
            most, of the others what it is to be compared with.
        labelled: `labelled_images.LabelledImages`.
        training: `trainer.Trainer` of the first.
        verbose: 0 silent.
        teacher: `formats.Classifier` to be compared with too, or None.
    """
    workers = training.workers
    if labelled.validation is None:
        return
    # The others wait: one that ends may take the chief with it.
    with workers.losses_explained(), workers.parting():
        if workers.is_chief:
            _write(trained, labelled, training, verbose, teacher)


def _write(trained, labelled, training, verbose, teacher):
    run = next(iter(trained.values()))
    bad_files = pipeline.BadFiles(max_fraction=1.0)  # Training has judged them.
    path = os.path.join(run.path, RESULTS)
    with monitors.errors_logged(path, bad_files=[bad_files]):
        found = {
            name: _scored(
                validation.extractor(one.method),
                training.plan.preprocessing,
                labelled,
                training,
                bad_files,
            )
            for name, one in trained.items()
        }
        if teacher is not None:
            found["teacher"] = _scored(
                features.Extractor(teacher),
                teacher.preprocessing,
                labelled,
                training,
                bad_files,
            )
        results = {name: _told(scored) for name, (_, scored) in found.items()}
        content = {
            "classes": list(labelled.class_names),
            "validation": labelled.validation.name,
            "labels": labelled.told_in_record()["images"],
            "steps": int(run.method.step.numpy()),
            "results": results,
            "mistakes": _mistakes(run, found, labelled),
        }
        files.write_json(path, content)
        runs.update(
            run.path,
            classification={"validation": labelled.validation.name}
            | {name: _brief(told) for name, told in results.items()},
        )
        _write_page(trained, found, labelled)
        if verbose:
            for name, told in results.items():
                print(f"{name}: {_line(told)}")


def _scored(extract, preprocessing, labelled, training, bad_files):
    """`(features.Features of the logits, scores)` on the validation images."""
    test = data_lib.labeled(
        labelled.validation,
        preprocessing,
        batch_size=training.images_at_once,
        bad_files=bad_files,
    )
    logits = extract(test)
    labels = labelled.validation.known_labels[logits.index]
    score = scores_lib.multi_label if labelled.multilabel else scores_lib.single_label
    return logits, score(logits.values, labels)


def _mistakes(run, found, labelled):
    """The most confident ones of the first, of one class per image; else None."""
    if labelled.multilabel:
        return None
    judged, _ = next(iter(found.values()))
    source, names = labelled.validation, labelled.class_names
    wrong = scores_lib.mistakes(
        features.by_rows(run.method.probabilities_of, judged.values),
        source.known_labels[judged.index],
        most=page.MISTAKES,
    )
    rows = zip(wrong.rows, wrong.predicted, wrong.true, wrong.probability.tolist())
    return [
        {
            "image": source.describe(int(judged.index[row])),
            "said": names[predicted],
            "is": names[true],
            "probability": probability,
        }
        for row, predicted, true, probability in rows
    ]


def _write_page(trained, found, labelled):
    run, (judged, _) = (next(iter(some.values())) for some in (trained, found))
    validation_images, record = labelled.validation, runs.record_of(run.path)
    page.write(
        os.path.join(run.path, PAGE),
        title=os.path.basename(os.path.abspath(run.path)),
        outputs={
            name: features.by_rows(run.method.probabilities_of, logits.values)
            for name, (logits, _) in found.items()
        },
        labels=validation_images.known_labels[judged.index],
        class_names=labelled.class_names,
        images=lambda rows: tiles.of(validation_images, judged.index[rows]),
        image_names=lambda rows: [
            validation_images.describe(int(i)) for i in judged.index[rows]
        ],
        histories={name: one.history for name, one in trained.items()},
        settings=record["settings"] | runs.versions(run.method),
        notes=[*labelled.told, *epoch_judges.notes(record, validation_images)],
    )


def _told(scored):
    """Scores as JSON has them."""
    if isinstance(scored, scores_lib.MultiLabel):
        return {
            "mean_ap": scored.mean_ap,
            "mean_ap_11_points": scored.mean_ap_11_points,
            "per_class": _known(scored.ap),
            "per_class_11_points": _known(scored.ap_11_points),
        }
    return {
        "top1": scored.top1,
        "top5": scored.top5,
        "mean_per_class": scored.mean_per_class,
        "per_class": _known(scored.per_class),
    } | _confusion(scored)


def _confusion(scored):
    """The matrix, or of many classes the cells that are not 0."""
    if len(scored.images) <= _MATRIX_CLASSES:
        return {"confusion": scored.confusion.tolist()}
    return {"confusion_cells": scored.cells.tolist()}


def _known(scores):
    return [None if np.isnan(score) else float(score) for score in scores]


def _brief(told):
    """The single numbers, for run.json, which every start reads."""
    return {key: x for key, x in told.items() if not isinstance(x, list)}


def _line(told):
    if "mean_ap" in told:
        return (
            f"mAP {100 * told['mean_ap']:.1f} % (11 points "
            f"{100 * told['mean_ap_11_points']:.1f} %)"
        )
    top5 = "" if told["top5"] is None else f", top-5 {100 * told['top5']:.1f} %"
    return (
        f"top-1 {100 * told['top1']:.1f} %{top5}, mean per class "
        f"{100 * told['mean_per_class']:.1f} %"
    )

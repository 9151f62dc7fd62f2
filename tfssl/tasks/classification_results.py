"""What a fine-tuning came to: its scores on the validation images, and their report."""

import os

import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import pipeline
from tfssl.evaluation import classification as scores_lib
from tfssl.tasks import runs
from tfssl.training import monitors, validation

RESULTS = "classification.json"


def write(run, scratch, labelled, training, verbose):
    """Writes `classification.json` and the report, on the chief, where it can.

    Args:
        run: `runs.Run` of the fine-tuning.
        scratch: the same of the network that began untrained, or None.
        labelled: `labelled_images.LabelledImages`.
        training: `trainer.Trainer` of `run`.
        verbose: 0 silent.
    """
    plan = training.plan
    if labelled.validation is None or not training.workers.is_chief:
        return
    bad_files = pipeline.BadFiles(max_fraction=1.0)  # Training has judged them.
    path = os.path.join(run.path, RESULTS)
    with monitors.errors_logged(path, bad_files=[bad_files]):
        found = {
            name: _scored(one, labelled, plan, bad_files)
            for name, one in (("fine-tuned", run), ("from scratch", scratch))
            if one is not None
        }
        results = {name: _told(scored) for name, (_, scored) in found.items()}
        content = {
            "classes": list(labelled.class_names),
            "validation": labelled.validation.name,
            "images": len(labelled.selection.indices),
            "steps": int(run.method.step.numpy()),
            "results": results,
        }
        files.write_json(path, content)
        runs.update(run.path, classification=results)
        if verbose:
            for name, told in results.items():
                print(f"{name}: {_line(told)}")


def _scored(run, labelled, plan, bad_files):
    """`(features.Features of the logits, scores)` on the validation images."""
    test = data_lib.labeled(
        labelled.validation,
        plan.preprocessing,
        batch_size=plan.batch_size,
        bad_files=bad_files,
    )
    found = validation.extractor(run.method)(test)
    labels = labelled.validation.labels[found.index]
    return found, scores_lib.single_label(found.values, labels)


def _told(scored):
    """Scores as JSON has them."""
    return {
        "top1": scored.top1,
        "top5": scored.top5,
        "mean_per_class": scored.mean_per_class,
        "per_class": [None if np.isnan(x) else float(x) for x in scored.per_class],
        "confusion": scored.confusion.tolist(),
    }


def _line(told):
    top5 = "" if told["top5"] is None else f", top-5 {100 * told['top5']:.1f} %"
    return (
        f"top-1 {100 * told['top1']:.1f} %{top5}, mean per class "
        f"{100 * told['mean_per_class']:.1f} %"
    )

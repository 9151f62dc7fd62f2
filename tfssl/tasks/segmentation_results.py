"""What a segmenter came to: its scores on the validation images, and drawings."""

import os

import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import label_maps, pipeline
from tfssl.evaluation import pictures, report, segmentation
from tfssl.tasks import epoch_judges, runs
from tfssl.training import monitors, pixel_validation

RESULTS, PAGE = "segmentation.json", "segmentation.html"

_SHOWN = 32
_SHARE = 0.6  # Of an overlay's colour in a pixel.
_CURVES = (
    "loss",
    "val_loss",
    "pixel_accuracy",
    "val_pixel_accuracy",
    "val_mean_iou",
    "learning_rate",
)


def write(trained, mapped, training, verbose):
    """Writes `segmentation.json` and the page, on the chief, where it can.

    Args:
        trained: dict of a name to a `runs.Run`, in order; the page is of the first.
        mapped: `segmenting.MappedImages`.
        training: `trainer.Trainer` of the first.
        verbose: 0 silent.
    """
    workers = training.workers
    if mapped.validation is None:
        return
    # The others wait: one that ends may take the chief with it.
    with workers.losses_explained(), workers.parting():
        if workers.is_chief:
            _write(trained, mapped, training, verbose)


def _write(trained, mapped, training, verbose):
    run, plan = next(iter(trained.values())), training.plan
    bad_files = pipeline.BadFiles(max_fraction=1.0)  # Training has judged them.
    path = os.path.join(run.path, RESULTS)
    with monitors.errors_logged(path, bad_files=[bad_files]):
        test = data_lib.labeled(
            mapped.validation,
            mapped.preprocessing(plan.preprocessing),
            batch_size=segmentation.images_at_once(
                min(training.images_at_once, mapped.validation.num_images),
                run.method.encoder.image_size,
                run.method.num_classes,
            ),
            bad_files=bad_files,
        )
        results = {
            name: _told(*pixel_validation.judge(one.method)(test), mapped)
            for name, one in trained.items()
        }
        content = {
            "classes": list(mapped.class_names),
            "validation": mapped.validation.name,
            "steps": int(run.method.step.numpy()),
            "results": results,
        }
        files.write_json(path, content)
        runs.update(
            run.path,
            segmentation={"validation": mapped.validation.name}
            | {name: _brief(told) for name, told in results.items()},
        )
        lines = [_line(name, told) for name, told in results.items()]
        best = next(iter(results.values()))
        lines.append(f"IoU of the classes: {_of_classes(best)}")
        if verbose:
            print("\n".join(lines))
        record = runs.record_of(run.path)
        report.write(
            os.path.join(run.path, PAGE),
            title=os.path.basename(os.path.abspath(run.path)),
            settings=record["settings"] | runs.versions(run.method),
            curves=_curves(trained),
            sheets={
                "Images, over them their maps, and what the segmenter says": _sheet(
                    run.method, test, plan.preprocessing
                )
            },
            notes=[*lines, *epoch_judges.notes(record, mapped.validation)],
            step_name="epoch",
        )


def _told(loss, found, mapped):
    """Scores as JSON has them."""
    named = zip(mapped.class_names, found.iou)
    return {
        "mean_iou": found.mean_iou,
        "pixel_accuracy": found.pixel_accuracy,
        "loss": loss,
        "iou": {name: None if np.isnan(x) else float(x) for name, x in named},
        "confusion": found.confusion.tolist(),
    }


def _brief(told):
    """The single numbers, for run.json, which every start reads."""
    return {key: x for key, x in told.items() if not isinstance(x, list | dict)}


def _line(name, told):
    return (
        f"{name}: mIoU {100 * told['mean_iou']:.1f} %, pixel accuracy "
        f"{100 * told['pixel_accuracy']:.1f} %"
    )


def _of_classes(told):
    return ", ".join(
        f"{name} {'none' if iou is None else f'{100 * iou:.1f} %'}"
        for name, iou in told["iou"].items()
    )


def _curves(trained):
    """The curves of the first, and the scores of all of them in one panel."""
    run, *others = trained.values()
    found = {name: _curve(run.history, name) for name in _CURVES}
    if others:
        del found["val_mean_iou"]
        for name, one in trained.items():
            found[f"val_mean_iou of/{name}"] = _curve(one.history, "val_mean_iou")
    return found


def _curve(history, name):
    return [(line["epoch"], line[name]) for line in history if name in line]


def _sheet(method, test, preprocessing):
    """Some images, their maps over them, and what the segmenter says over them."""
    shown, count = [], 0
    for batch in test:
        real = batch["mask"].numpy()
        seen = batch["image"].numpy()[real]
        labels, said, _ = (x.numpy()[real] for x in method.judged(batch["image"]))
        images = seen[..., : preprocessing.channels]
        images = images * np.float32(preprocessing.std) + preprocessing.mean
        if images.shape[-1] != 3:
            images = np.repeat(images[..., :1], 3, axis=-1)
        shown.append(
            np.stack([images, overlaid(images, labels), overlaid(images, said)], axis=1)
        )
        count += len(images)
        if count >= _SHOWN:
            break
    return pictures.sheet(np.concatenate(shown)[:_SHOWN])


def overlaid(images, labels):
    """Images with the colours of their classes over them; float `(n, h, w, 3)`.

    Args:
        images: float `(n, h, w, 3)` in [0, 1].
        labels: int `(n, h, w)`; where it is 255 the image stays as it is.
    """
    over = colours(label_maps.IGNORED + 1)[labels]
    share = np.where(labels == label_maps.IGNORED, 0.0, _SHARE)[..., np.newaxis]
    return (1 - share) * images + share * over


def colours(count):
    """So many colours in [0, 1], float `(count, 3)`: those of VOC's masks.

    The bits of a class's number go to red, green and blue in turn, the lowest first to
    the highest bit of a colour.
    """
    found = np.zeros((count, 3), np.uint8)
    number = np.arange(count)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= ((number >> (3 * bit + channel)) & 1).astype(
                np.uint8
            ) << (7 - bit)
    return found / 255

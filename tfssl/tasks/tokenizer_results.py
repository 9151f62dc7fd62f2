"""What a tokenizer came to: its error, its codes, and pictures of both."""

import os

import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import each_once, pipeline
from tfssl.evaluation import pictures, report
from tfssl.models import tokenizer as tokenizer_lib
from tfssl.tasks import runs
from tfssl.training import code_use, monitors

RESULTS, PAGE = "tokenizer.json", "tokenizer.html"

_OF_TRAINING = 2048  # Images, where there are no others.
_SHOWN = 32
_CURVES = (
    "loss",
    "reconstruction",
    "kl",
    "perplexity",
    "codes_used",
    "dead_codes",
    "image_error",
    "image_perplexity",
    "learning_rate",
)


def write(run, held_out, training, verbose):
    """Writes `tokenizer.json` and the page, on the chief, where it can.

    Args:
        run: `runs.Run`.
        held_out: source of images that did not train, or None.
        training: `trainer.Trainer`.
        verbose: 0 silent.
    """
    workers = training.workers
    # The others wait: one that ends may take the chief with it.
    with workers.losses_explained(), workers.parting():
        if workers.is_chief:
            _write(run, held_out, training, verbose)


def _write(run, held_out, training, verbose):
    bad_files = pipeline.BadFiles(max_fraction=1.0)  # Training has judged them.
    path = os.path.join(run.path, RESULTS)
    with monitors.errors_logged(path, bad_files=[bad_files]):
        tokenizer = run.encoder.network
        source = training.plan.train if held_out is None else held_out
        found, sheet = _judged(tokenizer, source, held_out is None, training, bad_files)
        found |= {
            "fingerprint": tokenizer.fingerprint,
            "steps": int(run.method.step.numpy()),
        }
        files.write_json(path, found)
        runs.update(run.path, tokenizer=found)
        line = _line(found)
        report.write(
            os.path.join(run.path, PAGE),
            title=os.path.basename(os.path.abspath(run.path)),
            settings=runs.record_of(run.path)["settings"] | runs.versions(run.method),
            curves={name: _curve(run.history, name) for name in _CURVES},
            sheets={"Images, and below them what their tokens say": sheet},
            notes=[line],
            step_name="epoch",
        )
        if verbose:
            print(line)


def _judged(tokenizer, source, trained, training, bad_files):
    """`(numbers, a sheet of pictures)` of images of a source."""
    preprocessing, count = training.plan.preprocessing, source.num_images
    if trained:
        count = min(count, _OF_TRAINING)
    dataset = data_lib.labeled(
        source,
        preprocessing,
        batch_size=min(training.images_at_once, count),
        indices=each_once.some(source, count),
        bad_files=bad_files,
    )
    there_and_back = code_use.there_and_back(tokenizer)
    counts = np.zeros(tokenizer.vocabulary, np.int64)
    squares, pixels, seen, shown = 0.0, 0, 0, []
    for batch in dataset:
        images = batch["image"].numpy()
        real = batch["mask"].numpy()
        tokens, decoded = (x[real] for x in there_and_back(batch["image"]))
        images = images[real]
        counts += np.bincount(tokens.ravel(), minlength=len(counts))
        squares += float(np.square(decoded - images, dtype=np.float64).sum())
        pixels += images.size
        seen += len(images)
        if sum(map(len, shown)) < _SHOWN:
            shown.append(np.stack([images, decoded], axis=1))
    error = squares / pixels
    numbers = {
        "images": source.name,
        "count": seen,
        "trained_on": trained,
        "squared_error": error,
        "psnr": float(-10 * np.log10(max(error, 1e-12))),
        "vocabulary": tokenizer.vocabulary,
        "codes_used": int((counts > 0).sum()),
        "perplexity": tokenizer_lib.perplexity(counts),
        "grid": list(tokenizer.grid(preprocessing.size)),
    }
    return numbers, pictures.sheet(np.concatenate(shown)[:_SHOWN])


def _curve(history, name):
    return [(line["epoch"], line[name]) for line in history if name in line]


def _line(found):
    images = "training images" if found["trained_on"] else "images that did not train"
    return (
        f"{found['images']}, {found['count']:,} {images}: squared error "
        f"{found['squared_error']:.5f} (PSNR {found['psnr']:.1f} dB); "
        f"{found['codes_used']:,} of {found['vocabulary']:,} codes used, perplexity "
        f"{found['perplexity']:.1f}"
    )

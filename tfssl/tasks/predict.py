"""Classes of any images, or of their pixels, by a fine-tuned run."""

import collections
import dataclasses
import os
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from tfssl import checks, files, formats, models
from tfssl import data as data_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import sources
from tfssl.data.sources import listed, manifest_rows
from tfssl.evaluation import features
from tfssl.tasks import (
    arguments,
    groups,
    predicted_masks,
    predictions,
    resolve,
    runs,
)
from tfssl.tasks.arguments import Path, Range

_TOP, _THRESHOLD = 5, 0.5


@arguments.task
def predict(
    run: Path | Any,
    data: Any,
    out: Path | None = None,
    *,
    images: groups.Images,
    top: groups.CountOrNone = None,
    threshold: Annotated[float | None, Range(0, 1)] = None,
    all_probabilities: bool = True,
    batch_size: groups.Count = 256,
    max_bad_fraction: groups.Share = 0.01,
    verbose: groups.Verbose = 1,
):
    """Says which classes images are of, with the classifier of a fine-tuned run.

    With a segmenter it says so of their pixels, in masks of the images' own sizes.

    Args:
        run: folder of a fine-tuned run or of an exported version of one, or a `.keras`
            file that holds a classifier or a segmenter. In Python also a
            `formats.Classifier`, or what `tfssl.load_segmenter` gives.
        data: where the images are, given as for `tfssl.pretrain`, or the path of one
            image file. In Python also a list of paths, or of arrays of any sizes.
        out: path of a file for what is found, or None: `.csv` with a line for every
            class that is named, `.jsonl` with one for every image, or `.npz` with all
            probabilities (`probabilities`, `names`, `class_names`); lines are written
            as they are found, to a file beside it that takes its place at the end. With
            a segmenter a folder, for a PNG file of each image's mask and `masks.csv`: a
            new or empty one, or that of earlier masks, which are replaced.
        images: see `groups.Images`; without `channels` files are decoded to what the
            classifier takes. Labels have no use here.
        top: how many classes are named of each image, the most probable first; None
            is 5. For classifiers of one class per image.
        threshold: probability from which on a class is named; None is 0.5. For
            multi-label classifiers.
        all_probabilities: hold those of all classes of all images, which must fit into
            memory, for what is returned and for `.npz`. Without, what is returned has
            the rows alone.
        batch_size: images per forward pass; of a segmenter fewer, where the
            probabilities of their pixels would take more than half a GiB.
        max_bad_fraction: share of unreadable images that stops it; up to there they are
            logged and left out.
        verbose: 0 silent, 1 progress.

    Returns:
        `predictions.Predictions`, a sequence with a row for every image: `image`,
        `classes` and `probabilities`. Its own `probabilities` are those of all classes,
        float32 `(n, classes)`; without `all_probabilities` it is
        `predictions.NamedPredictions`, which has the rows. With a segmenter
        `predicted_masks.Masks`, whose rows have `image` and `mask`, uint8 `(height,
        width)`.

    Raises:
        ValueError: if there is no classifier, if images cannot be read or have other
            channels than it takes, if the probabilities do not fit into memory, or
            if a folder for masks holds anything else, or is, contains or lies in that
            of the images.

    Example:
        >>> for row in tfssl.predict("runs/pets", "photos/"):
        ...     print(row.image, row.classes[0], row.probabilities[0])
    """
    classifier = _classifier_of(run)
    segments = isinstance(classifier, formats.Encoder)
    top, threshold = _named(classifier, top, threshold)
    if images.labels == "folders":
        raise checks.refused("labels", images.labels, "none: predictions need none")
    kind = "segmenter" if segments else "classifier"
    source = _opened(data, images, classifier.preprocessing, kind)
    if out is not None and segments:
        predicted_masks.check_out(out, data, source)
    elif out is not None:
        predictions.check_out(out)
        if not (all_probabilities or predictions.comes_in_parts(out)):
            raise ValueError(
                f"all_probabilities=False received with out={out!r}, which is for all "
                "probabilities; leave it out, or write .csv or .jsonl."
            )
    if segments:
        return predicted_masks.of(
            classifier,
            source,
            out,
            batch_size=batch_size,
            max_bad_fraction=max_bad_fraction,
            verbose=verbose,
        )
    found = predictions.Gathered(
        source, classifier.class_names, top, threshold, whole=all_probabilities
    )
    bad_files = data_lib.pipeline.BadFiles(max_bad_fraction)
    blocks = _blocks(classifier, source, batch_size, bad_files, bool(verbose))
    with bad_files_lib.explained(bad_files):
        parts = map(found.add, blocks)
        if out is not None and predictions.comes_in_parts(out):
            predictions.write(out, parts)
        else:
            collections.deque(parts, maxlen=0)
    found = found.finished(bad_files.listed)
    if out is not None and not predictions.comes_in_parts(out):
        predictions.write(out, [found])
    return found


def _blocks(classifier, source, batch_size, bad_files, progress):
    """Yields `features.Features` whose values are probabilities."""
    dataset = data_lib.labeled(
        source, classifier.preprocessing, batch_size=batch_size, bad_files=bad_files
    )
    extractor = features.Extractor(classifier, progress=progress)
    for logits in extractor.blocks(dataset, -(-source.num_images // batch_size)):
        chances = np.asarray(classifier.probabilities_of(logits.values))
        predictions.check_finite(chances, "classifier")
        yield dataclasses.replace(logits, values=chances)


def _classifier_of(run):
    """The classifier, or the `formats.Encoder` of a segmenter."""
    if isinstance(run, str | os.PathLike):
        found = runs.load_whole(run)
        # What is neither is refused there.
        return found if _is_either(found) else runs.load_classifier(run)
    if _is_either(run):
        return run
    raise checks.refused(
        "run",
        run,
        "the folder of a fine-tuned run, a .keras file or a formats.Classifier; an "
        "encoder is to be fine-tuned first (tfssl.finetune)",
    )


def _is_either(model):
    if isinstance(model, formats.Encoder):
        return isinstance(model.network, models.Segmenter)
    return isinstance(model, formats.Classifier)


def _named(classifier, top, threshold):
    """How many classes a row names at most, and from which probability on."""
    if isinstance(classifier, formats.Encoder):
        for name, given in (("threshold", threshold), ("top", top)):
            if given is not None:
                raise ValueError(
                    f"{name}={given} received for a segmenter, which says one class "
                    "for each pixel; leave it out."
                )
        return None, None
    if classifier.multilabel:
        if top is not None:
            raise ValueError(
                f"top={top} received for a multi-label classifier, whose classes are "
                "named by their probability; give threshold instead."
            )
        return None, _THRESHOLD if threshold is None else threshold
    if threshold is not None:
        raise ValueError(
            f"threshold={threshold} received for a classifier of one class per image, "
            "which is for multi-label classifiers; give top instead."
        )
    return top or _TOP, 0.0


def _opened(data, images, preprocessing, kind):
    """The images, as a source of what the classifier, or another `kind`, takes."""
    wanted = preprocessing.channels
    bit_depth = resolve.bit_depth(images.bit_depth, preprocessing)
    options = {"labels": "none", "bit_depth": bit_depth}
    if _is_image_file(data):
        data = [data]
    if isinstance(data, list):
        channels = images.channels or wanted
        data = [files.expanded(image) for image in data]
        data = listed.listed(data, channels=channels, bit_depth=bit_depth)
    source = images.open(data, **options)
    # Those of a manifest with further files can be read without them.
    open_again = source.holds_files or isinstance(source, sources.FileSource)
    if images.channels is None and source.channels != wanted and open_again:
        source = images.open(data, channels=wanted, **options)
    if source.channels != wanted:
        raise ValueError(
            f"{source.name} has images of {source.channels} channel(s), but the "
            f"{kind} takes {wanted}; give images of {wanted}."
        )
    return source


def _is_image_file(data):
    """Whether this is the path of one file that is no list of others."""
    if not isinstance(data, str | os.PathLike):
        return False
    path = files.expanded(data)
    if path.lower().endswith(manifest_rows.ENDINGS):
        return False
    if "://" in path:
        return tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)
    return "\0" not in path and os.path.isfile(path)

"""Instance retrieval with a run's encoder: R-MAC vectors and their mean AP."""

import os
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from tfssl import checks, files, progress
from tfssl.data import bad_files as bad_files_lib
from tfssl.evaluation import retrieval, rmac, stages
from tfssl.tasks import apart, arguments, groups, resolve, results, runs
from tfssl.tasks.arguments import Path, Range

_SHOWN = 5


@arguments.task
def retrieve(
    run: Path | Any,
    data: Path,
    ground_truth: Path,
    *,
    whiten_data: Path | None = None,
    stage: str | None = None,
    longer_side: Annotated[int, Range(1, groups.LARGEST_SIDE)] = rmac.LONGER_SIDE,
    levels: Annotated[int, Range(1, 100)] = rmac.LEVELS,
    components: groups.CountOrNone = None,
    preprocessing: Any = None,
    max_bad_fraction: groups.Share = 0.01,
    out: Path | None = None,
    verbose: groups.Verbose = 1,
):
    """Ranks the images of a folder for every query, by the cosine of R-MAC vectors.

    Queries are cut to their box after resizing, as in DeepCluster. Images that cannot
    be read are left out and listed; where one was to be found, it counts as not found.

    Args:
        run: folder of a run, or a `.keras` file. In Python also an encoder with
            `.stage_outputs`.
        data: folder of the images, nested or flat.
        ground_truth: folder of the queries' files, `<query>_query.txt`, `_good.txt`,
            `_ok.txt`, `_junk.txt`. See `retrieval.read_ground_truth`.
        whiten_data: folder of OTHER images to learn the PCA-whitening from, Paris6k for
            Oxford5k, and the other way round. None for no whitening.
        stage: name of the feature map; None takes the last.
        longer_side: pixels that the longer side of each image gets.
        levels: scales of regions.
        components: components of the whitening; None is the number of channels.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        max_bad_fraction: share of unreadable images, of either folder, that stops it.
        out: JSON file for the result; None is `retrieval.json` in the run.
        verbose: 0 silent, 1 progress and result.

    Returns:
        Dict: `mean_average_precision`, `average_precision` (of each query), in
        [0, 1], `protocol`, `bad_files`, `missing` (names that should be found and are
        not there, or not readable), `steps` (those that the encoder was trained for,
        None unless it is that of a run's folder), `versions`.

    Raises:
        ValueError: on anything that is missing or does not fit together.
    """
    encoder, preprocessing = runs.encoder_of(run, preprocessing, any_size=True)
    if out is None:
        out = _default_out(run)
    steps = _steps_of(run)
    stage = stage or stages.names(encoder)[-1]
    if components is not None and whiten_data is None:
        raise ValueError(
            f"components={components} received without whiten_data, expected both: "
            "they are components of the whitening."
        )
    reader = rmac.MapReader(
        stages.any_size(encoder, stage), preprocessing, longer_side=longer_side
    )
    queries = retrieval.read_ground_truth(ground_truth)
    source = _source(data, preprocessing)
    names = _names(source)
    _check_queries(queries, names, data)
    if whiten_data is not None:
        others = _source(whiten_data, preprocessing)
        same = others.identity() == source.identity()
        if same or apart.shared(others, source)[0]:
            raise checks.refused(
                "whiten_data",
                whiten_data,
                "other images than those of data, and none of those among them",
            )
    files.check_writable(out)
    # They are few, and what is wrong with them is known before all others are read.
    of_queries = [
        rmac.region_vectors(_map_of(query, names, source, reader), levels)
        for query in queries
    ]
    channels = of_queries[0].shape[1]
    if components is not None and components > channels:
        raise checks.refused(
            "components", components, f"1 to {channels}, the channels of {stage}"
        )

    bad, bad_others = (bad_files_lib.BadFiles(max_bad_fraction) for _ in range(2))
    whitening, learned = None, "no whitening"
    if whiten_data is not None:
        maps = (m for _, m in _shown(reader, others, bad_others, "whitening", verbose))
        whitening = rmac.learn_whitening(maps, levels=levels, components=components)
        learned = (
            f"PCA-whitening to {whitening.projection.shape[1]} learned on "
            f"{others.num_images - bad_others.count} images of {whiten_data}"
        )
    kept, vectors = [], []
    for index, feature_map in _shown(reader, source, bad, "images", verbose):
        kept.append(names[index])
        vectors.append(rmac.describe(feature_map, levels, whitening))
    wanted = np.stack([rmac.summed(vectors, whitening) for vectors in of_queries])
    precisions = retrieval.score(queries, kept, wanted @ np.stack(vectors).T)
    result = {
        "mean_average_precision": float(np.mean(list(precisions.values()))),
        "average_precision": precisions,
        "protocol": (
            f"R-MAC of {stage}, L={levels}, longer side {longer_side}, {learned}; "
            f"{len(queries)} queries cut to their boxes, {len(kept)} images of {data}"
        ),
        "bad_files": bad.listed + bad_others.listed,
        "missing": sorted(
            frozenset().union(*(q.positives for q in queries)) - set(kept)
        ),
        "steps": steps,
        "versions": runs.versions(),
    }
    files.write_json(out, result)
    if verbose:
        _print(result)
    return result


def _default_out(run):
    folder = runs.folder_of(run)
    if folder is not None:
        return os.path.join(folder, results.RETRIEVAL)
    raise ValueError(
        "No place for the result: the encoder is not the folder of a run; give out, "
        "the path of a JSON file."
    )


def _steps_of(run):
    """Steps that the encoder of a run's folder was trained for, else None."""
    folder = runs.folder_of(run)
    return runs.steps_of(runs.record_of(folder)) if folder else None


def _source(folder, preprocessing):
    """The images of a folder, decoded to what the encoder takes."""
    if not tf.io.gfile.isdir(folder):
        raise ValueError(
            f"{folder!r} is not there or is no folder; retrieval needs a folder of "
            "image files."
        )
    return resolve.source(folder, labels="none", channels=preprocessing.channels)


def _names(source):
    """The files' names without folder and ending, by which ground truth knows them."""
    names = [
        os.path.splitext(os.path.basename(source.describe(i)))[0]
        for i in range(source.num_images)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{source.name} holds two images of the name {twice!r}; rename one, since "
            "ground truth knows images by their names only."
        )
    return names


def _check_queries(queries, names, data):
    """Every query needs its own image, and one of those that it should find."""
    there = set(names)
    for query in queries:
        if query.image not in there:
            raise ValueError(
                f"The image {query.image!r} of the query {query.name} is not in "
                f"{data}; give the images that this ground truth was made for."
            )
        if not query.positives & there:
            raise ValueError(
                f"None of the {len(query.positives)} images that the query "
                f"{query.name} should find is in {data}; give the images that this "
                "ground truth was made for."
            )


def _shown(reader, source, bad_files, what, verbose):
    return progress.bar(
        reader.maps(source, bad_files),
        wanted=verbose,
        total=source.num_images,
        desc=what,
        unit="image",
        leave=False,
    )


def _map_of(query, names, source, reader):
    encoded = source.read(tf.constant(names.index(query.image), tf.int64))
    try:
        return reader.map_of(encoded, query.box)
    except (ValueError, tf.errors.OpError) as error:
        reason = error if isinstance(error, ValueError) else "it cannot be decoded"
        raise ValueError(
            f"The image {query.image!r} of the query {query.name} gives no features: "
            f"{reason}"
        ) from error


def _print(result):
    for name, value in result["average_precision"].items():
        print(f"{name:<30}{100 * value:6.2f}")
    print(
        f"{'mean average precision':<30}{100 * result['mean_average_precision']:6.2f}"
    )
    print(result["protocol"])
    for what, listed in (
        ("images could not be read", result["bad_files"]),
        ("images to find are missing", result["missing"]),
    ):
        if listed:
            more = ", …" if len(listed) > _SHOWN else ""
            print(f"{len(listed)} {what}: {', '.join(listed[:_SHOWN])}{more}")

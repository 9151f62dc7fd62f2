"""The features that an evaluation is of: of whole encoders, and of their stages."""

import dataclasses

import numpy as np

from tfssl import data as data_lib
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import labels as labels_lib
from tfssl.evaluation import features, judging
from tfssl.evaluation import stages as stages_lib


def of_networks(networks, setting, *, raw_pixels=False, batch_size, log=True):
    """Features of the training and the test images, as each network gives them.

    Args:
        networks: dict from a name ("pre-trained") to a Keras model.
        setting: `judging.Setting`.
        raw_pixels: whether the pixels themselves are judged too.
        batch_size: int, images per forward pass.
        log: whether to log unreadable images.

    Returns:
        List of `judging.Subject`, with the features of the images that have a label,
        training images in the order of the source, so that the indices of a
        `labels.Selection` are rows.

    Raises:
        ValueError: as soon as a network gives NaN or infinity.
    """
    # One each: a few bad training images may be many of a small test set.
    bad, bad_tests = (
        data_lib.pipeline.BadFiles(setting.max_bad_fraction, log=log) for _ in range(2)
    )

    def of_one(extract, source, bad_files):
        indices = labels_lib.labelled(source)
        images = data_lib.labeled(
            source,
            setting.preprocessing,
            batch_size=batch_size,
            indices=indices,
            bad_files=bad_files,
        )
        return extract(images, batches=-(-len(indices) // batch_size))

    def of_both(extract):
        bank = of_one(extract, setting.train, bad)
        return _sorted(bank), of_one(extract, setting.test, bad_tests), setting

    with bad_files_lib.explained(bad, bad_tests):
        subjects = []
        for name, network in networks.items():
            extract = features.Extractor(
                network,
                progress=bool(setting.verbose),
                purpose=f"The evaluation of the features {name!r}",
            )
            subjects.append(judging.Subject(name, *of_both(extract), network))
        if raw_pixels:
            subjects.append(
                judging.Subject("raw pixels", *of_both(features.raw_pixels))
            )
    return subjects


def of_stages(stages, networks, setting, *, limit, batch_size):
    """Yields a `judging.Subject` of each stage of each network, one at a time.

    Args:
        stages: names of stages.
        networks: see `of_networks`.
        setting: see `of_networks`.
        limit: int, numbers that a stage's map is averaged to at most.
        batch_size: see `of_networks`.
    """
    for stage in stages:
        for name, network in networks.items():
            pooled = stages_lib.pooled(network, stage, limit)
            yield dataclasses.replace(
                *of_networks({name: pooled}, setting, batch_size=batch_size, log=False),
                stage=stage,
            )


def _sorted(bank):
    """In the order of the source; they mostly are, and a copy would be large."""
    order = np.argsort(bank.index, kind="stable")
    return bank if (np.diff(order) > 0).all() else bank.take(order)

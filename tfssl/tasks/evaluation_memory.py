"""What an evaluation's memory is for: features first, then decoded images."""

import dataclasses
import math

from absl import logging

from tfssl import processor
from tfssl.data import labels as labels_lib
from tfssl.evaluation import stages as stages_lib
from tfssl.tasks import kept_images

# Of the free memory, what raw pixels may take that nobody asked for by name.
SHARE = 0.5


def shared_out(compared, networks, stages, probes, setting, *, limit):
    """What the memory has no room for, of what was not asked for; and what is left.

    The features of all networks are held at once, those of one stage beside them.

    Args:
        compared: `chosen_probes.Baselines`.
        networks: dict from a name to a Keras model, see `evaluation_features`.
        stages: names of stages.
        probes: list of `judging.Probe`.
        setting: `judging.Setting`.
        limit: int, numbers that a stage's map is averaged to at most.

    Returns:
        `(left_out, free)`: dict from the name of a baseline to the reason in words,
        which is logged too; and bytes that the features leave free.

    Raises:
        ValueError: if what was asked for takes more than the free memory.
    """
    made, sources = setting.preprocessing, (setting.train, setting.test)
    counts = [len(labels_lib.labelled(source)) for source in sources]
    images = sum(counts)
    shape = (1, made.size, made.size, made.channels)
    # Rows of features that a probe makes beside those it is given.
    rows = [
        probe.copies * images + probe.copies_of_tests * counts[1] for probe in probes
    ]
    made_rows = max(rows, default=0)
    # Numbers per image.
    whole = [_numbers(network) for network in networks.values()]
    of_stages = [
        stages_lib.pooled(network, stage, limit).compute_output_shape(shape)[-1]
        for stage in stages
        for network in networks.values()
    ]
    beside = [made_rows * size for size in whole]
    beside += [images * size for size in of_stages]
    need = 4 * (images * sum(whole) + max(beside, default=0))
    free = processor.free_memory()
    fixes = "give fewer images (split, validation_split) or fewer baselines"
    fixes += f", or a lower stage_features than {limit:,}" if stages else ""
    processor.check_fits(f"The features of {images:,} images", need, fixes)
    if "raw_pixels" not in compared.names:
        return {}, free - need
    pixels = 4 * (images + made_rows) * math.prod(shape)
    told = (
        f"raw pixels of {images:,} images of {made.size} x {made.size} x "
        f"{made.channels} take {processor.gib(pixels)} of memory as features"
    )
    if compared.baselines is not None:
        if need + pixels > free:
            raise ValueError(
                f"baselines={','.join(compared.names)} received, but the {told}, and "
                f"{processor.gib(max(0, free - need))} are free; leave raw_pixels out, "
                "or give fewer images (split, validation_split)."
            )
        return {}, free - need - pixels
    if pixels <= min(SHARE * free, free - need):
        return {}, free - need - pixels
    if pixels > SHARE * free:
        why = f"more than half of the {processor.gib(free)} that are free"
        fix = "baselines=raw_pixels asks for it"
    else:
        why = f"and {processor.gib(free - need)} are free beside the other features"
        fix = "give fewer images (split, validation_split) for it"
    reason = f"The {told}, {why}: this baseline is left out; {fix}."
    logging.warning("%s", reason)
    return {"raw_pixels": reason}, free - need


def with_kept_images(setting, free):
    """A `judging.Setting` whose images are decoded once, where memory has room.

    Else they are for each network, and in every epoch of the probes that train on them.
    A set most of whose images have no label is left as it is: they would be decoded
    for nothing.

    Args:
        setting: `judging.Setting`.
        free: bytes that are free.
    """
    found = {}
    for part in ("train", "test"):
        source = getattr(setting, part)
        if 2 * len(labels_lib.labelled(source)) >= source.num_images:
            source = kept_images.keep(source, free=free)
        if setting.verbose and source.memory is not None:
            told = source.memory.told(
                "for each network and in every epoch", "a quarter of what is free"
            )
            print(f"Evaluation: {source.name}: {told}")
        found[part] = source
    return dataclasses.replace(setting, **found)


def _numbers(network):
    """Numbers per image that a network gives, 0 where it does not say."""
    shape = getattr(network, "output_shape", None)
    return (shape[-1] or 0) if isinstance(shape, tuple) else 0

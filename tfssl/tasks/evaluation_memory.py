"""Whether the features of an evaluation fit into memory, before any is computed."""

import math

from absl import logging

from tfssl import processor
from tfssl.data import labels as labels_lib
from tfssl.evaluation import stages as stages_lib

# Of the free memory, what raw pixels may take that nobody asked for by name.
SHARE = 0.5


def left_out(compared, networks, stages, probes, setting, *, limit):
    """What the memory has no room for, of what was not asked for.

    The features of all networks are held at once, those of one stage beside them.

    Args:
        compared: `chosen_probes.Baselines`.
        networks: dict from a name to a Keras model, see `evaluation_features`.
        stages: names of stages.
        probes: list of `judging.Probe`.
        setting: `judging.Setting`.
        limit: int, numbers that a stage's map is averaged to at most.

    Returns:
        Dict from the name of a baseline to the reason in words, which is logged too.

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
        return {}
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
        return {}
    if pixels <= SHARE * free:
        return {}
    reason = (
        f"The {told}, more than half of the {processor.gib(free)} that are free: this "
        "baseline is left out; baselines=raw_pixels asks for it."
    )
    logging.warning("%s", reason)
    return {"raw_pixels": reason}


def _numbers(network):
    """Numbers per image that a network gives, 0 where it does not say."""
    shape = getattr(network, "output_shape", None)
    return (shape[-1] or 0) if isinstance(shape, tuple) else 0

"""Small pictures of a source's images, for reports."""

import numpy as np

from tfssl import data as data_lib

_SIDE = 64


def of(source, index):
    """Pictures of some images.

    Args:
        source: a `Source`.
        index: int array, their numbers in it.

    Returns:
        List of uint8 arrays `(side, side, 1 or 3)`, in the order of `index`. Of other
        numbers of channels the first is shown.
    """
    plain = data_lib.Preprocessing(
        size=_SIDE, channels=source.channels, max_value=source.max_value
    )
    wanted = np.unique(index)
    dataset = data_lib.labeled(source, plain, batch_size=len(wanted), indices=wanted)
    found = {}
    for batch in dataset:
        for image, number, real in zip(batch["image"], batch["index"], batch["mask"]):
            if real:
                pixels = np.clip(np.round(255 * image.numpy()), 0, 255)
                shown = pixels if pixels.shape[-1] in (1, 3) else pixels[..., :1]
                found[int(number)] = shown.astype(np.uint8)
    return [found[int(number)] for number in index]

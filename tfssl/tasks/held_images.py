"""Whether the training images are put on the devices that make views of them."""

import numpy as np

from tfssl import replicas
from tfssl.data.views import batched, device

# Bytes that `images_on="auto"` takes of a device; CIFAR-10 has 0.15e9.
LIMIT = 1 << 30


def hold(model, plan, devices):
    """Puts them there, if `devices.images_on` asks for it, or they fit.

    Args:
        model: a compiled `Method`.
        plan: `trainer.Plan`.
        devices: `groups.Devices`.

    Raises:
        ValueError: if it is asked for and cannot be.
    """
    source = plan.train
    asked = source, plan.recipe, model.augment_on, devices.data_service
    if devices.images_on == "device":
        device.check_images(*asked)
        model.hold_images(source)
    elif devices.images_on == "auto":
        of_gpu = replicas.kind_of_devices(model.distribute_strategy) == "GPU"
        fits = of_gpu and 0 < _bytes_of_small(source) <= LIMIT
        if fits and not device.refusal(*asked):
            model.hold_images(source)


def _bytes_of_small(source):
    """What the decoded images of a source take, 0 if they are too large to be held.

    Without decoding all of them: by some, where they are files.
    """
    largest = batched.SMALL**2 * source.channels * np.dtype(source.dtype).itemsize
    if source.memory is not None:
        small = source.memory.fits and source.memory.mean <= largest
        return source.memory.wanted if small else 0
    if source.stacked is None:
        return 0
    size = int(np.prod(source.image_size)) * largest // batched.SMALL**2
    return source.num_images * size if size <= largest else 0

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
    of_pixel = source.channels * np.dtype(source.dtype).itemsize
    if source.memory is not None and source.memory.fits:
        of_image, of_all = source.memory.mean, source.memory.wanted
    elif source.stacked is not None:
        height, width = source.image_size
        of_image = height * width * of_pixel
        of_all = source.num_images * of_image
    else:
        return 0
    return of_all if of_image <= batched.SMALL**2 * of_pixel else 0

"""What trainings by lightly share: images of files, epochs, and features.

Imports nothing of tfssl. The paths of the images come from `--split`, a JSON file with
those of `train` and `held_out`; the features of both go to `--out`, an .npz file.
"""

import argparse
import json
import math
import os
import statistics
import time

import numpy as np
import peer_torchvision  # noqa: F401  Before torchvision.
import step_torch
import torch
from lightly.transforms.utils import IMAGENET_NORMALIZE
from PIL import Image, ImageOps

KIND = step_torch.KIND
_MEAN, _STD = (np.float32(IMAGENET_NORMALIZE[name]) for name in ("mean", "std"))


def parser(description):
    """The arguments of a training."""
    made = argparse.ArgumentParser(description=description)
    add = made.add_argument
    cores = len(os.sched_getaffinity(0))
    add("--split", required=True, help="JSON file with paths of train and held_out")
    add("--out", required=True, help="where the features go, an .npz file")
    add("--epochs", type=int, required=True)
    add("--batch_size", type=int, required=True, dest="batch")
    add("--workers", type=int, default=cores, help="default: one per core")
    add("--depth", type=int, default=18, help="of the ResNet")
    add("--width", type=float, default=0.25, help="of the ResNet")
    add("--stem", choices=("imagenet", "cifar"), default="cifar")
    return made


class Images(torch.utils.data.Dataset):
    """Views of images, or with `views=None` the images as networks take them.

    Args:
        paths: of the files.
        views: function of a PIL image.
        size: pixels of the sides of an image that is no view.
        arrays: whether all files are decoded once, before the first is asked for.
    """

    def __init__(self, paths, views, size, arrays):
        self._paths, self._views, self._size = paths, views, size
        self._arrays = [np.asarray(_opened(path)) for path in paths] if arrays else None

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, number):
        if self._arrays is None:
            image = _opened(self._paths[number])
        else:
            image = Image.fromarray(self._arrays[number])
        if self._views is not None:
            return self._views(image)
        return _for_evaluation(image, self._size)


def _opened(path):
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def _for_evaluation(image, size):
    """The middle of an image, normalised; of small ones all, as tfssl takes it."""
    border = (1 - 0.875) / 2 if size > 64 else 0.0
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC, border)
    scaled = (np.asarray(square, np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(scaled.transpose(2, 0, 1))


def on_device(images):
    return images.to(KIND, non_blocking=True, memory_format=torch.channels_last)


def batches(images, options, **settings):
    return torch.utils.data.DataLoader(
        images,
        options.batch,
        num_workers=options.workers,
        pin_memory=KIND == "cuda",
        **settings,
    )


def rate(peak, done, warmup, total):
    """The learning rate after so many steps: a straight rise, then half a cosine."""
    if done < warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / (total - warmup))) / 2


def fit(loader, options, step):
    """Trains, and prints the loss and the images per second of every epoch.

    Args:
        loader: gives the batches of an epoch, lists of views.
        options: of `parser`.
        step: function of the number of the step, that of the epoch, and the views on
            the device -> the loss, which nobody waits for before the epoch ends.
    """
    if not len(loader):
        raise SystemExit(
            f"--batch_size={options.batch} received for {len(loader.dataset)} images; "
            "give at most so many."
        )
    speeds, number = [], 0
    for epoch in range(options.epochs):
        begin, total = time.perf_counter(), torch.zeros((), device=KIND)
        for views in loader:
            loss = step(number, epoch, [on_device(view) for view in views])
            total += loss.detach()
            number += 1
        mean = total.item() / len(loader)
        speeds.append(len(loader) * options.batch / (time.perf_counter() - begin))
        told = f"loss {mean:.4f}, {speeds[-1]:.1f} images/s"
        print(f"epoch {epoch + 1}: {told}", flush=True)
    later = speeds[1:]
    if later:  # The first compiles, chooses kernels and starts the workers.
        print(
            f"images/s of the epochs after the first: {statistics.median(later):.1f} "
            f"({min(later):.1f} to {max(later):.1f})",
            flush=True,
        )


@torch.no_grad()
def _features(encoder, images, options):
    encoder.eval()
    found = batches(images, options)
    return np.concatenate([encoder(on_device(x)).cpu().numpy() for x in found])


def run(views, train, options):
    """Trains by `train(batches, options) -> encoder` and writes what it then gives.

    Args:
        views: function of a PIL image, the transform of the training.
        train: as above; `batches` gives lists of views.
        options: of `parser`, with `size` and `arrays`, see `Images`.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    print(f"lightly on {step_torch.device().name}, {options.workers} workers")
    with open(options.split) as file:
        split = json.load(file)
    images = Images(split["train"], views, options.size, options.arrays)
    lasting = options.workers > 0
    loader = batches(
        images, options, shuffle=True, drop_last=True, persistent_workers=lasting
    )
    encoder = train(loader, options)
    found = {
        name: _features(encoder, Images(paths, None, options.size, False), options)
        for name, paths in split.items()
    }
    np.savez(options.out, **found)

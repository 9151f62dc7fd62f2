"""What lightly makes per second: the peer of `benchmarks.input_pipeline`.

make peer
.venv-peer/bin/python benchmarks/lightly_views.py --data=photos/ --recipe=swav

Runs in an environment of its own (`make peer`), imports nothing of tfssl, and prints
its images per second as the last word. Views are those of lightly's transform for the
recipe, float32, made by a PyTorch `DataLoader` with persistent workers, each of one
thread. Files are read once before the clock starts, so that they come from the page
cache; `--arrays` decodes them first. The last two words printed are images per second
and the milliseconds of processor time, of all its processes, per image.
"""

import argparse
import os
import pathlib
import time

import numpy as np
import peer_torchvision  # noqa: F401  Before torchvision.
import torch
from lightly import transforms
from lightly.transforms import byol_transform
from PIL import Image

_ENDINGS = (".jpg", ".jpeg", ".png")


def transform_of(recipe, size):
    """The transform of lightly for a recipe of `tfssl.data.recipes`."""
    name, _, small = recipe.partition("_cifar10")
    small = small or recipe.endswith("_cifar10")
    if name == "simclr":
        # Half the colour strength and no blur for CIFAR-10, as in the paper.
        half = dict(cj_strength=0.5, gaussian_blur=0.0) if small else {}
        return transforms.SimCLRTransform(input_size=size, **half)
    if name == "byol":
        blur = dict(gaussian_blur=0.0) if small else {}
        return transforms.BYOLTransform(
            byol_transform.BYOLView1Transform(input_size=size, **blur),
            byol_transform.BYOLView2Transform(input_size=size, **blur),
        )
    if name == "moco_v2":
        return transforms.MoCoV2Transform(input_size=size)
    if name == "swav" and not small:
        return transforms.SwaVTransform(crop_sizes=(size, round(size * 96 / 224)))
    raise SystemExit(f"No transform of lightly is known for recipe {recipe!r}.")


class Images(torch.utils.data.Dataset):
    """Files of a folder, opened by PIL, or arrays; `(views, number)` of each."""

    def __init__(self, options):
        self.transform = transform_of(options.recipe, options.size)
        if options.data is None:
            shape = (options.max_images, 32, 32, 3)
            noise = np.random.default_rng(0).integers(0, 256, shape)
            self.items = noise.astype(np.uint8)
            return
        folder = pathlib.Path(options.data)
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _ENDINGS)
        rows = np.linspace(0, len(files) - 1, options.max_images).astype(np.int64)
        self.items = [files[i] for i in np.unique(rows)]
        for file in self.items:
            file.read_bytes()
        if options.arrays:
            opened = [Image.open(file).convert("RGB") for file in self.items]
            self.items = np.stack([np.asarray(image) for image in opened])

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        item = self.items[number]
        if isinstance(item, np.ndarray):
            return self.transform(Image.fromarray(item)), number
        with open(item, "rb") as file:
            return self.transform(Image.open(file).convert("RGB")), number


def processor_seconds(processes):
    """Processor time used so far by these processes (Linux)."""
    ticks = 0
    for process in processes:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main(options):
    images = Images(options)
    endless = torch.utils.data.RandomSampler(
        images, replacement=True, num_samples=1 << 30
    )
    loader = torch.utils.data.DataLoader(
        images,
        options.batch_size,
        sampler=endless,
        num_workers=options.workers,
        persistent_workers=True,
        drop_last=True,
    )
    batches = iter(loader)
    # The workers deliver in turn: whole rounds are counted, after a full queue.
    for _ in range(4 * options.workers):
        next(batches)
    processes = [os.getpid(), *(worker.pid for worker in batches._workers)]
    made, start, used = 0, time.perf_counter(), processor_seconds(processes)
    while time.perf_counter() - start < options.seconds:
        for _ in range(options.workers):
            views, _ = next(batches)
            made += len(views[0])
    seconds = time.perf_counter() - start
    used = processor_seconds(processes) - used
    shapes = " ".join(str(tuple(view.shape)) for view in views)
    print(
        f"lightly: {options.recipe} {views[0].dtype} {shapes}, {options.workers} "
        "workers"
    )
    print(f"images/s, core-ms: {made / seconds:.1f} {1000 * used / made:.3f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="Folder of images; default is noise of 32 pixels.")
    add("--arrays", action="store_true", help="Decode first, and feed arrays.")
    add("--recipe", default="simclr", help="Name of a recipe of tfssl.")
    add("--size", type=int, default=224, help="Pixels of the first view.")
    add("--batch_size", type=int, default=64)
    add("--max_images", type=int, default=2000)
    add("--seconds", type=float, default=3.0)
    cores = len(os.sched_getaffinity(0))
    add("--workers", type=int, default=cores, help="Default: one per core.")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

"""What decoding JPEG smaller changes: speed, memory, and the views.

python -m benchmarks.large_images --data=photos/
python -m benchmarks.large_images --side=10000

With `--data`: for every case the share of views that are made from a smaller image,
the processor time per image of decoding, cropping and resizing as a ratio to that of
full decoding, and how far the views are from those of full decoding (mean absolute
difference, in steps of 1/255, over the views that changed). The kinds of decoding take
turns in every round. `kept` is `decoding.KEPT`, the pixels that are left for every
pixel of a view, in each direction; TensorFlow's filter does not widen (SimCLR's and
BYOL's bicubic, SwAV's bilinear), the antialiased one does.

With `--side`: a JPEG and a PNG file of side x side pixels, each read by a process of
its own; its peak of memory above that after a small file, and its time. Linux only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import input_pipeline, step_timing
from tfssl.data import preprocessing, sources, views
from tfssl.data.sources import decoding
from tfssl.data.views import recipes

_NEVER = 10**6  # So many pixels no file has.


def cases():
    """Functions of a source and a seed that give its dataset, by name.

    The datasets hold a tuple of the views of every image, in order, made one after the
    other: random views without colour and blur, or the image for evaluation.
    """

    def training(name, size, **changes):
        recipe = recipes.get(name).scaled(size, **input_pipeline.PLAIN, **changes)

        def dataset(source, seed):
            count, channels = source.num_images, source.channels
            packed = views.pack(
                views.sample(recipe, batch=count, channels=channels, seed=seed, step=0),
                recipe,
                channels,
                source.max_value,
            )

            def make(index, packed):
                image, crops = source.decode_window(
                    source.read(index),
                    lambda *sides: views.boxes(packed, recipe, *sides),
                    [view.size for view in recipe],
                )
                return views.apply_packed(packed, image, recipe, crops)

            indices = tf.range(count, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((indices, packed)).map(make)

        return dataset

    def evaluation(**settings):
        path = preprocessing.Preprocessing(crop=0.875, **settings)

        def dataset(source, _):
            def make(index):
                image = source.decode(source.read(index), path.side)
                return (path.apply(image),)

            return tf.data.Dataset.range(source.num_images).map(make)

        return dataset

    return {
        "SimCLR, 2 x 224": training("simclr", 224),
        "SimCLR, 2 x 224, antialias": training("simclr", 224, antialias=True),
        "SwAV, 2 x 224 + 6 x 96": training("swav", 224),
        "SimCLR, 2 x 96": training("simclr", 96),
        "SimCLR, 2 x 32": training("simclr", 32),
        "evaluation, 224": evaluation(size=224),
        "evaluation, 224, antialias": evaluation(size=224, antialias=True),
        "evaluation, 96": evaluation(size=96),
        "evaluation, 96, antialias": evaluation(size=96, antialias=True),
    }


def with_kept(kept, function, *args):
    """`function(*args)`, traced with another `KEPT`."""
    usual, decoding.KEPT = decoding.KEPT, kept
    try:
        return function(*args)
    finally:
        decoding.KEPT = usual


def one_pass(dataset):
    """`(views, core-ms per image)`, the views as arrays of all images."""
    next(iter(dataset))
    start = time.process_time()
    found = list(dataset.as_numpy_iterator())
    used = 1e3 * (time.process_time() - start) / len(found)
    return [np.stack(view) for view in zip(*found)], used


def compare(source, dataset, kepts, rounds):
    """Prints a line per `kept` of how it differs from full decoding."""
    costs = {kept: [] for kept in (_NEVER, *kepts)}
    changed = {kept: [] for kept in kepts}
    apart = {kept: [] for kept in kepts}
    for seed in range(rounds):
        found = {}
        for kept in costs:
            made = with_kept(kept, dataset, source, seed)
            found[kept], cost = one_pass(made)
            costs[kept].append(cost)
        for kept in kepts:
            for view, whole in zip(found[kept], found[_NEVER]):
                difference = np.abs(view - whole).mean((1, 2, 3))
                changed[kept] += (difference > 0).tolist()
                apart[kept] += (255 * difference[difference > 0]).tolist()
    for kept in kepts:
        pairs = zip(costs[kept], costs[_NEVER])
        ratio = statistics.median(cost / whole for cost, whole in pairs)
        mean = np.mean(apart[kept]) if apart[kept] else 0.0
        share = 100 * np.mean(changed[kept])
        print(f"{kept:6g} {share:8.1f} {ratio:13.2f} {mean:12.2f}")


# One large file ---------------------------------------------------------------------


def photograph(side):
    """A picture with coarse and fine parts; uint8 `(side, side, 3)`."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (max(side // 250, 2),) * 2 + (3,)).astype(np.uint8)
    image = np.array(Image.fromarray(coarse).resize((side, side), Image.BICUBIC))
    fine = rng.integers(0, 24, (250, 250, 1)).astype(np.uint8)
    for top in range(0, side, 250):  # In place: a float copy would be 1.2 GB.
        for left in range(0, side, 250):
            part = image[top : top + 250, left : left + 250]
            part //= 2
            part += fine[: part.shape[0], : part.shape[1]]
    return image


def peak_of(path, name, kept):
    """Megabytes and seconds that the one image of a folder takes, in this process."""
    decoding.KEPT = kept
    dataset = cases()[name]
    small, large = (sources.open_source(p) for p in (f"{path}/../small", path))
    list(dataset(small, 0))  # What TensorFlow takes once.
    made = dataset(large, 0)
    before, start = step_timing.resident("peak"), time.perf_counter()
    list(made)
    seconds = time.perf_counter() - start
    return (step_timing.resident("peak") - before) / 1e6, seconds


def large_file(side):
    """Prints memory and time of one large file of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        image = photograph(side)
        os.mkdir(os.path.join(folder, "small"))
        Image.fromarray(image[:300, :300]).save(os.path.join(folder, "small", "a.jpg"))
        kinds = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}}
        for kind, options in kinds.items():
            os.mkdir(os.path.join(folder, kind))
            path = os.path.join(folder, kind, f"a.{kind.lower()}")
            Image.fromarray(image).save(path, kind, **options)
            print(f"{kind}: {os.path.getsize(path) / 1e6:.0f} MB")
        del image
        print(f"{side} x {side} pixels: MB above the process before, seconds")
        for kind in kinds:
            for way in ("SimCLR, 2 x 224", "evaluation, 224"):
                for kept in (_NEVER, decoding.KEPT) if kind == "JPEG" else (_NEVER,):
                    command = [sys.executable, "-m", "benchmarks.large_images"]
                    command += ["--one", os.path.join(folder, kind), way, str(kept)]
                    done = subprocess.run(command, capture_output=True, check=True)
                    memory, seconds = map(float, done.stdout.split()[-2:])
                    name = "full" if kept == _NEVER else f"kept {kept}"
                    print(f"{kind:6}{way:18}{name:10}{memory:8.0f}{seconds:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="Folder of JPEG files.")
    add("--kept", type=float, nargs="+", default=[1, 2, 3])
    add("--rounds", type=int, default=5, help="Passes over the images, of each kind.")
    add("--side", type=int, help="Pixels of the side of one large file.")
    add("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if options.one:
        path, way, kept = options.one
        print(*peak_of(path, way, float(kept)))
        return
    print(f"TensorFlow {tf.__version__}")
    if options.data:
        source = input_pipeline.in_memory(options.data)
        print(f"{source.num_images} images of {source.name}")
        print("  kept smaller %       core-ms   difference")
        for name, dataset in cases().items():
            print(name)
            compare(source, dataset, options.kept, options.rounds)
    if options.side:
        large_file(options.side)


if __name__ == "__main__":
    main()

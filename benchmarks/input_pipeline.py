"""What the input pipeline makes per second, stage by stage, and against a peer.

python -m benchmarks.input_pipeline --data=photos/ --size=224
python -m benchmarks.input_pipeline --arrays --size=32 --recipe=simclr_cifar10
python -m benchmarks.input_pipeline --data=photos/ --peer="peer/python peer.py"

All stages take turns in every round, so that a machine that slows down slows all of
them; compare the ratios of one run only. `core-ms` is processor time per image, which
other work on the machine disturbs less than images per second. Files are read into
memory first. The peer is any command that understands `--data --size --batch_size
--seconds` and prints its images per second as the last word; it runs once per round.
"""

import argparse
import shlex
import statistics
import subprocess
import time

import numpy as np
import tensorflow as tf

from tfssl.data import pipeline, recipes, sources

_PLAIN = dict(jitter=0.0, gray=0.0, blur=0.0, solarize=0.0)


def stages(recipe):
    """Recipes that leave out one part after the other, by name."""
    bilinear = dict(resize="bilinear", antialias=False)
    return {
        "all of the recipe": recipe,
        "bilinear resize": recipe.scaled(**bilinear),
        "bilinear, no blur": recipe.scaled(**bilinear, blur=0.0),
        "decode, crop, resize": recipe.scaled(**bilinear, **_PLAIN),
    }


def open_images(options):
    if options.data is None:
        shape = (options.max_images, 32, 32, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape)
        return sources.ArraySource(noise.astype(np.uint8))
    source = sources.open_source(options.data)
    rows = np.linspace(0, source.num_images - 1, options.max_images).astype(np.int64)
    rows = np.unique(rows)
    files = [source.read(tf.constant(i)).numpy() for i in rows]
    memory = sources.BytesSource(
        files,
        name=source.name,
        channels=source.channels,
        dtype=source.dtype,
        labels=None,
        class_names=None,
    )
    if not options.arrays:
        return memory
    images = [memory.decode(memory.read(tf.constant(i))) for i in range(len(files))]
    return sources.ArraySource(np.stack(images))


def turn(iterator, length):
    """`(images per second, processor milliseconds per image)` of one turn."""
    next(iterator)  # What was made while the others ran.
    images, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < length:
        images += len(next(iterator)["index"])
    seconds = time.perf_counter() - start
    return images / seconds, 1000.0 * (time.process_time() - used) / images


def peer_turn(options):
    command = shlex.split(options.peer)
    command += [f"--data={options.data}", f"--size={options.size}"]
    command += [f"--batch_size={options.batch_size}", f"--seconds={options.seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(options):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    source = open_images(options)
    recipe = recipes.get(options.recipe).scaled(options.size)
    cases = stages(recipe)
    found = {name: [] for name in cases}
    peers = []
    for _ in range(options.rounds):
        for name, case in cases.items():
            # A stage's threads must not run on through the others' turns.
            dataset = pipeline.multiview(source, case, batch_size=options.batch_size)
            iterator = iter(dataset)
            next(iterator)
            found[name].append(turn(iterator, options.seconds))
            del iterator, dataset
        if options.peer:
            peers.append(peer_turn(options))
    print(
        f"{source.name}: {source.num_images} images, {recipe.name}, {options.size} px"
    )
    base = statistics.median(rate for rate, _ in found["decode, crop, resize"])
    peer = statistics.median(peers) if peers else None
    print(f"{'stage':24}{'images/s':>10}{'core-ms':>10}{'of geometry':>13}", end="")
    print(f"{'x peer':>8}" if peer else "")
    for name, turns in found.items():
        rate = statistics.median(rate for rate, _ in turns)
        cost = statistics.median(cost for _, cost in turns)
        print(f"{name:24}{rate:10.0f}{cost:10.3f}{rate / base:13.2f}", end="")
        print(f"{rate / peer:8.2f}" if peer else "")
    if peer:
        print(f"{'peer':24}{peer:10.0f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="Folder of images; default is noise of 32 pixels.")
    add("--arrays", action="store_true", help="Decode first, and feed arrays.")
    add("--recipe", default="simclr", choices=sorted(recipes.RECIPES))
    add("--size", type=int, default=224, help="Pixels of the first view.")
    add("--batch_size", type=int, default=64)
    add("--max_images", type=int, default=2000, help="Images held in memory.")
    add("--rounds", type=int, default=5, help="Turns of every stage.")
    add("--seconds", type=float, default=3.0, help="Length of a turn.")
    add("--peer", help="Command of a peer, see the module's docstring.")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

"""A step's work on a memory bank: seconds for few and for very many images.

Draws the negatives, reads the bank, computes loss and gradient for a batch of
embeddings, and moves the images' rows. Banks of all sizes take their steps in turn, so
that other work on the machine meets them alike; medians are printed, and their ratio to
the first bank's. Every step is of other images. `make bench-memory-bank`; or:

    python -m benchmarks.memory_bank --batch=256 --negatives=4096 --jit
"""

import argparse
import time

import numpy as np

import tfssl  # noqa: F401  Before TensorFlow, which it sets up.

# isort: split
import tensorflow as tf

from tfssl import memory
from tfssl.methods import bank_contrast


def _stepper(num_images, args):
    """A function that takes a step on a bank of its own, and waits for its end."""
    contrast = bank_contrast.BankContrast(num_images, args.dim, loss=args.loss)
    query = tf.random.stateless_normal((args.batch, args.dim), (0, 1))

    @tf.function(jit_compile=args.jit)
    def step(index, number):
        others = memory.others(
            index, num_images=num_images, count=args.negatives, seed=0, step=number
        )
        drawn = bank_contrast.Draw(index, tf.constant(0), others)
        with tf.GradientTape() as tape:
            tape.watch(query)
            found = contrast.compare([query], drawn)
        gradient = tape.gradient(found.losses[0], query)
        contrast.remember(query, found)
        return tf.reduce_sum(gradient)

    rng = np.random.default_rng(0)

    def run(number):
        index = tf.constant(rng.choice(num_images, args.batch, replace=False))
        number = tf.constant(number, tf.int64)
        begin = time.perf_counter()
        step(index, number).numpy()
        return time.perf_counter() - begin

    return run


def main():
    """Prints a line per size of the bank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 1_280_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--loss", choices=bank_contrast.LOSSES, default="nce")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    steppers = {count: _stepper(count, args) for count in args.images}
    times = {count: [] for count in args.images}
    for number in range(args.steps + 1):
        for count, run in steppers.items():
            seconds = run(number)
            if number:  # The first one traces.
                times[count].append(seconds)
    first = np.median(times[args.images[0]])
    devices = tf.config.list_logical_devices("GPU") or ["CPU"]
    print(f"{vars(args)} on {devices[0]}")
    for count, seconds in times.items():
        median = np.median(seconds)
        low, high = np.percentile(seconds, [10, 90])
        print(
            f"{count:>10,} images: {1e3 * median:.2f} ms a step "
            f"(10 to 90 %: {1e3 * low:.2f} to {1e3 * high:.2f}), {median / first:.2f} "
            "of the first"
        )


if __name__ == "__main__":
    main()

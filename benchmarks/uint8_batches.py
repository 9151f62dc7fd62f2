"""Whether batches of uint8 views, made floats inside the step, would save time here.

python -m benchmarks.uint8_batches

Takes finished float32 views and measures the processor time per view, on one thread,
of the two ways from there to the floats that the network reads: copied into a batch as
they are, or rounded to uint8, copied, and cast and scaled in a compiled step.
"""

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf


def dataset(view, batch_size, as_uint8):
    def made(number):
        # Depends on the element, so that the work is not done once for all.
        image = view + tf.cast(number, tf.float32) * 0.0
        return tf.cast(tf.round(image * 255.0), tf.uint8) if as_uint8 else image

    alone = tf.data.Options()
    alone.experimental_optimization.apply_default_optimizations = False
    alone.experimental_optimization.inject_prefetch = False
    alone.autotune.enabled = False
    numbers = tf.data.Dataset.range(1 << 40)
    return iter(numbers.map(made).batch(batch_size).with_options(alone))


def main(options):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    size = options.size
    rng = np.random.default_rng(0)
    view = tf.constant(rng.random((size, size, 3)).astype(np.float32))

    def step(images):  # Stands for a network: reads every value once.
        floats = tf.cast(images, tf.float32)
        scaled = floats / 255.0 if images.dtype == tf.uint8 else floats
        return tf.reduce_sum(scaled * scaled, [1, 2, 3])

    kinds = {"float32": False, "uint8": True}
    batches = {k: dataset(view, options.batch_size, u) for k, u in kinds.items()}
    steps = {
        jit: {k: tf.function(step, jit_compile=jit) for k in kinds}
        for jit in (False, True)
    }
    costs = {}
    for number in range(options.rounds + 1):
        for kind, iterator in batches.items():
            start = time.process_time()
            images = next(iterator)
            found = {"to the batch": time.process_time() - start}
            for jit, by_kind in steps.items():
                start = time.process_time()
                by_kind[kind](images)
                name = "step, XLA" if jit else "step"
                found[name] = time.process_time() - start
            for name, seconds in found.items():
                if number:  # The first is traced and compiled.
                    per_view = 1000.0 * seconds / options.batch_size
                    costs.setdefault(name, {}).setdefault(kind, []).append(per_view)
    print(f"core-ms per view of {size} px, batches of {options.batch_size}")
    print(f"{'':16}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, by_kind in costs.items():
        medians = (statistics.median(found) for found in by_kind.values())
        print(f"{name:16}" + "".join(f"{median:10.3f}" for median in medians))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, default=224)
    add("--batch_size", type=int, default=64)
    add("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

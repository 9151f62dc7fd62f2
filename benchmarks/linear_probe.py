"""What a grid of learning rates costs: the augmented probe with 1 rate and with 20.

Times `evaluation.augmented_probe`'s steps (views, frozen encoder, all classifiers of
the grid) on random images, in CPU seconds of this process, which other work on the
machine hardly changes (a GPU's work is not in them). The numbers are medians. With
`--rates=1 20` the grid of 20 trains 40 classifiers, half of them without the held-out
images, and that of 1 a single one. Run:

    python -m benchmarks.linear_probe --width=0.25 --size=32 --batch=256
"""

import argparse
import statistics
import time

import numpy as np

from tfssl import data, models
from tfssl.evaluation import augmented_probe, features


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256, help="images per step")
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rates", type=int, nargs="+", default=[1, 20])
    arguments = parser.parse_args()

    shape = (arguments.size, arguments.size, 3)
    encoder = models.resnet(
        arguments.depth, width=arguments.width, input_shape=shape, stem="cifar"
    )
    rng = np.random.default_rng(0)
    labels = np.arange(4 * arguments.batch) % arguments.classes
    images = rng.integers(0, 256, (len(labels), *shape)).astype(np.uint8)
    source = data.open_source((images, labels))
    preprocessing = data.Preprocessing(size=arguments.size)
    bank = features.extract(encoder, data.labeled(source, preprocessing))

    def seconds(count, steps):
        begin = time.process_time()
        augmented_probe.train(
            encoder,
            source,
            bank,
            bank,
            preprocessing=preprocessing,
            epochs=1,
            min_steps=steps,
            batch_size=arguments.batch,
            rates=np.geomspace(0.01, 10, count),
            verbose=0,
        )
        return time.process_time() - begin

    # The difference of a long and a short run leaves out tracing and scoring.
    short, long = 4, 4 + arguments.steps // 4 * 4
    rounds = {count: [] for count in arguments.rates}
    for _ in range(arguments.rounds):
        for count, found in rounds.items():
            difference = seconds(count, long) - seconds(count, short)
            found.append(difference / (long - short))

    print(
        f"ResNet-{arguments.depth}, width {arguments.width:g}, {bank.values.shape[1]} "
        f"features, {arguments.classes} classes, batch {arguments.batch}, "
        f"{arguments.size} px: CPU ms per step of the augmented probe"
    )
    first = statistics.median(rounds[arguments.rates[0]])
    for count, found in rounds.items():
        median = statistics.median(found)
        print(f"  {count:3d} rates {1e3 * median:8.1f}   ratio {median / first:.2f}")


if __name__ == "__main__":
    main()

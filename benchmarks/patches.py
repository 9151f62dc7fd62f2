"""A step of CPC v2 per image, against a step of SimCLR on two views of 224 pixels.

Both train the same ResNet. Prints the pixels of an image that pass through it, and the
time of a step for each image: median of the steps, all of it (views come from memory).
`--norm=batch` shows what is the layer norm's. Run:

    python -m benchmarks.patches --encoder=resnet18 --batch=4 --steps=3
    python -m benchmarks.patches --crop=64  # 6 x 6 windows of 64 pixels
    python -m benchmarks.patches --image=256 --patch=64 --stride=32  # 7 x 7
"""

import argparse
import statistics
import time

import keras
import tensorflow as tf

from tfssl import methods, models, optimizers


def _cpc(arguments):
    encoder = models.encoder(
        "patches",
        input_shape=(arguments.image, arguments.image, 3),
        of=arguments.encoder,
        norm=arguments.norm,
        patch=arguments.patch,
        stride=arguments.stride,
    )
    crop = {} if arguments.crop is None else {"crop": arguments.crop}
    method = methods.CPC(encoder, augmentation=crop)
    rows, columns = encoder.grid_shape
    side = arguments.crop or arguments.patch
    return method, f"{rows} x {columns} x {side} px", rows * columns * side**2


def _simclr(arguments):
    shape = (arguments.view, arguments.view, 3)
    encoder = models.encoder(arguments.encoder, input_shape=shape)
    what = f"2 x {arguments.view} px"
    return methods.SimCLR(encoder), what, 2 * arguments.view**2


def _seconds(method, size, count, steps, xla):
    """The median time of a step for each image."""
    method.compile(optimizers.build("sgd", learning_rate=1e-3))
    method.build_optimizer()
    views = {
        f"view_{i}": tf.random.stateless_uniform((count, size, size, 3), (0, i))
        for i in range(method.num_views)
    }
    rows = tf.range(count, dtype=tf.int64)
    batch = {"views": views, "index": rows, "position": rows}

    @tf.function(jit_compile=xla, autograph=False)
    def step(batch):
        method.train_step(batch)
        return method.get_metrics_result()["loss"]

    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        float(step(batch))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet50", help="a ResNet by name")
    parser.add_argument("--norm", default="layer", help="of the encoder of patches")
    parser.add_argument("--image", type=int, default=260, help="pixels of CPC's view")
    parser.add_argument("--patch", type=int, default=80)
    parser.add_argument("--stride", type=int, default=36)
    parser.add_argument("--crop", type=int, help="window of a patch; default: all")
    parser.add_argument("--view", type=int, default=224, help="pixels of SimCLR's")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--xla", action="store_true", help="compile the steps")
    arguments = parser.parse_args()
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    print(
        f"{arguments.encoder}, batch {arguments.batch}, {device}; tensorflow "
        f"{tf.__version__}, keras {keras.__version__}"
    )
    found = []
    for build, size in ((_simclr, arguments.view), (_cpc, arguments.image)):
        keras.utils.set_random_seed(0)
        method, what, pixels = build(arguments)
        seconds = _seconds(
            method, size, arguments.batch, arguments.steps, arguments.xla
        )
        found.append((pixels, seconds))
        print(
            f"{type(method).__name__:<7}{what:<18}{pixels:9,} pixels"
            f"{1000 * seconds:9.0f} ms an image"
        )
    ratios = [b / a for a, b in zip(*found)]
    print(f"ratio: {ratios[0]:.2f} of pixels, {ratios[1]:.2f} of time")


if __name__ == "__main__":
    main()

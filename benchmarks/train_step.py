"""Speed of a training step: our BatchNorm against Keras's BatchNormalization.

The same ResNet, the same weights, forward and backward pass and an SGD update,
in each dtype. The variants take turns, so that a busy machine slows all alike;
the numbers are medians. Run:

    python -m benchmarks.train_step --depth=50 --size=224 --batch=16 --steps=5
"""

import argparse
import statistics
import time

import keras
import tensorflow as tf

from tfssl import models

_KEPT_ARGUMENTS = ("name", "momentum", "epsilon", "gamma_initializer", "dtype")


def _with_stock_norm(model):
    """The same model with Keras's layer in place of every one of ours."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, models.norms.BatchNorm):
            return keras.layers.BatchNormalization(
                **{key: config[key] for key in _KEPT_ARGUMENTS}
            )
        return type(layer).from_config(config)

    stock = keras.models.clone_model(model, clone_function=clone)
    stock.set_weights(model.get_weights())
    return stock


def _train_step(model):
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            features = model(images, training=True)
            loss = tf.reduce_mean(tf.square(features))
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return step


def _variants(arguments):
    """Name to (training step, images)."""
    shape = (arguments.size, arguments.size, 3)
    images = tf.random.stateless_normal((arguments.batch, *shape), (0, 0))
    steps = {}
    for dtype in arguments.dtypes:
        ours = models.resnet(
            arguments.depth, width=arguments.width, input_shape=shape, dtype=dtype
        )
        steps[dtype, "keras"] = _train_step(_with_stock_norm(ours))
        steps[dtype, "tfssl"] = _train_step(ours)
    return steps, images


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "mixed_bfloat16"])
    arguments = parser.parse_args()

    steps, images = _variants(arguments)
    seconds = {key: [] for key in steps}
    for round_ in range(arguments.steps + 1):
        for key, step in steps.items():
            start = time.perf_counter()
            step(images).numpy()
            if round_ > 0:  # The first call traces.
                seconds[key].append(time.perf_counter() - start)

    rate = {k: arguments.batch / statistics.median(s) for k, s in seconds.items()}
    print(
        f"ResNet-{arguments.depth}, width {arguments.width:g}, batch "
        f"{arguments.batch}, {arguments.size} px: images/s of a training step"
    )
    for dtype in arguments.dtypes:
        ours, stock = rate[dtype, "tfssl"], rate[dtype, "keras"]
        print(
            f"  {dtype:<15} keras {stock:7.1f}   tfssl {ours:7.1f}   "
            f"ratio {ours / stock:.2f}"
        )
    first, *others = arguments.dtypes
    for dtype in others:
        ratio = rate[dtype, "tfssl"] / rate[first, "tfssl"]
        print(f"  tfssl, {dtype} over {first}: ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

"""Memory and time of a training step of SimCLR, with and without `remat`.

Each number comes from a process of its own. On a GPU the peak is what TensorFlow's
allocator says of a step; on a CPU it is the largest resident memory of the process
during a step, less what it had before the first (weights and the traced step). With
`--xla` on a CPU it is what XLA plans to use, weights included: its compiler leaves more
memory behind than a small step takes. Run:

    python -m benchmarks.remat --encoder=resnet50 --size=224 --batch=16 --steps=3
"""

import argparse
import ast
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import tensorflow as tf

from benchmarks import memory
from tfssl import methods, models, optimizers


def _measure(arguments, remat):
    """`{"peak": bytes, "seconds": of a step, "loss": …}` of this process."""
    keras.config.set_dtype_policy(arguments.precision)
    keras.utils.set_random_seed(0)
    shape = (arguments.size, arguments.size, 3)
    encoder = models.encoder(
        arguments.encoder,
        input_shape=shape,
        remat=remat,
        **{k: ast.literal_eval(v) for k, v in map(_pair, arguments.encoder_arg)},
    )
    method = methods.SimCLR(encoder)
    method.compile(optimizers.build("lars", learning_rate=0.1, weight_decay=1e-6))
    method.build_optimizer()
    count = arguments.batch
    views = tf.random.stateless_uniform((2, count, *shape), (0, 0))
    rows = tf.range(count, dtype=tf.int64)
    batch = {
        "views": {"view_0": views[0], "view_1": views[1]},
        "index": rows,
        "position": rows,
    }

    @tf.function(jit_compile=arguments.xla, autograph=False)
    def step(batch):
        method.train_step(batch)
        return method.get_metrics_result()["loss"]

    step.get_concrete_function(batch)
    before, seconds = memory.used("current"), []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        loss = float(step(batch))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:  # The first step compiles.
            memory.forget_peaks()
    planned = arguments.xla and not memory.on_gpu()
    return {
        "peak": _planned() if planned else memory.used("peak") - before,
        "seconds": statistics.median(seconds[1:]),
        "loss": loss,
    }


def environment(xla, folder):
    """That of a measurement; on a CPU XLA writes its plans into the folder."""
    env = dict(os.environ)
    if xla and not tf.config.list_physical_devices("GPU"):
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {dump}".strip()
    return env


def _planned():
    """The bytes that XLA's plan of the step has, from what `main` has it write."""
    folder = os.environ["XLA_FLAGS"].split("--xla_dump_to=")[-1].split()[0]
    plans = pathlib.Path(folder).glob("*inference_step*buffer-assignment.txt")
    return max(
        int(plan.read_text().split("Total bytes used: ")[1].split()[0])
        for plan in plans
    )


def _pair(text):
    return text.split("=", 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--encoder_arg", action="append", default=[])
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images, of two views")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--measure", choices=("off", "on"), help="one, as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments, arguments.measure == "on")))
        return
    found = {}
    for remat in ("off", "on"):
        command = [sys.executable, "-m", "benchmarks.remat", *sys.argv[1:]]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*command, f"--measure={remat}"],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(arguments.xla, folder),
            )
        one = found[remat] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"remat {remat:<3}  peak {one['peak'] / memory.GIB:6.2f} GiB   "
            f"{one['seconds']:7.2f} s a step   loss {one['loss']:.6f}",
            flush=True,
        )
    for key in ("peak", "seconds"):
        print(f"{key}: ratio {found['on'][key] / found['off'][key]:.2f}")


if __name__ == "__main__":
    main()

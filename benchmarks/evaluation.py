"""Speed and memory of what judges an encoder, on a GPU if there is one.

Times the public functions on random rows that lie in host memory, one case after the
other: features of an encoder, kNN, linear and MLP probes, k-means, PCA. Each runs once
untimed, which traces and compiles, and then `--repeat` times, of which the median
counts. It prints a line when it is done; one that fails, or takes longer than `--limit`
seconds for all its runs, prints that instead. A case is NAME or NAME:VALUE; the value
is a precision (extract) or how many numbers a row has (the others). Run:

    python -m benchmarks.evaluation --rows=50000
    python -m benchmarks.evaluation --rows=2000 --queries=500 --depth=18 --size=32 \
        --images=64 --batch=16 --classes=10 --clusters=10 extract:float32 knn:64

Peaks are what the case took beyond its input, on the host and on the GPU.
"""

import argparse
import contextlib
import functools
import gc
import os
import signal
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks import memory, step_timing
from tfssl import kmeans, models
from tfssl.evaluation import dense_probe, features, knn, linear_probe

_CASES = (
    "extract:float32",
    "extract:mixed_bfloat16",
    "knn:128",
    "knn:2048",
    "kmeans:256",
    "pca:2048",
    "dense:512",
    "mlp:512",
    "linear:512",
)
_NOISE = 65536  # Rows of noise; to draw it for all would take longer than some cases.
_START = time.perf_counter()


class _TooLong(Exception):
    pass


@contextlib.contextmanager
def _at_most(seconds):
    """Raises `_TooLong` in what is inside after so many seconds."""

    def stop(*_):
        raise _TooLong(f"stopped after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(1, int(seconds)))
    try:
        yield
    finally:
        signal.alarm(0)


@functools.lru_cache(maxsize=1)
def _rows(count, dim, classes):
    """Rows around `classes` centres, as features of images are, with their labels."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, dim), np.float32)
    labels = rng.integers(0, classes, count)
    noise = rng.standard_normal((min(count, _NOISE), dim), np.float32)
    noise *= 0.35 * np.sqrt(dim)
    values = np.empty((count, dim), np.float32)
    for start in range(0, count, _NOISE):
        of_part = labels[start : start + _NOISE]
        np.add(
            noise[: len(of_part)],
            centres[of_part],
            out=values[start : start + len(of_part)],
        )
    return features.Features(values, labels, np.arange(count))


def _split(options, dim):
    """`(training features, test features)`."""
    both = _rows(options.rows + options.queries, dim, options.classes)
    return both.take(slice(options.rows)), both.take(slice(options.rows, None))


def _extract(options, precision):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        shape = (options.size, options.size, 3)
        encoder = models.resnet(options.depth, width=options.width, input_shape=shape)
    finally:
        keras.config.set_dtype_policy(before)
    batch = {
        "image": np.random.default_rng(0).random((options.batch, *shape), np.float32),
        "label": np.zeros(options.batch, np.int64),
    }
    steps = max(1, options.images // options.batch)
    batches = tf.data.Dataset.from_tensors(batch).repeat(steps).prefetch(2)
    extract = features.Extractor(encoder)
    extract(batches.take(1))

    def run():
        extract(batches)
        count = steps * options.batch
        return lambda seconds: f"{count} images, {count / seconds:.0f} images/s"

    return run


def _knn(options, dim):
    train, test = _split(options, int(dim))

    def run():
        found = knn.accuracy(train, test)
        return lambda seconds: (
            f"{len(test) / seconds:.0f} queries/s, accuracy {found:.4f}"
        )

    return run


def _kmeans(options, dim):
    rows = _rows(options.rows, int(dim), options.classes).values

    def run():
        found = kmeans.fit(
            rows,
            num_clusters=options.clusters,
            iterations=options.iterations,
            init="random",
        )
        passes = options.iterations + 1
        return lambda seconds: (
            f"{seconds / passes:.3f} s per iteration, objective {found.objective:.6g}"
        )

    return run


def _pca(options, dim):
    rows = _rows(options.rows, int(dim), options.classes).values

    def run():
        moments = kmeans.Moments(int(dim))
        moments.update(rows)
        found = kmeans.pca(moments, components=min(256, int(dim)))
        found.transform(rows)
        return lambda seconds: f"first eigenvalue {found.eigenvalues[0]:.6g}"

    return run


def _dense(options, dim, units=()):
    train, test = _split(options, int(dim))

    def run():
        found = dense_probe.fit(train, test, units=units, epochs=options.epochs)
        return lambda seconds: f"accuracy {found.accuracy:.4f}, {found.steps} steps"

    return run


def _mlp(options, dim):
    return _dense(options, dim, units=(512,))


def _linear(options, dim):
    train, test = _split(options, int(dim))

    def run():
        found = linear_probe.fit(train, test)
        return lambda seconds: f"accuracy {found.accuracy:.4f}, l2 {found.l2:g}"

    return run


_MAKE = {
    "extract": _extract,
    "knn": _knn,
    "kmeans": _kmeans,
    "pca": _pca,
    "dense": _dense,
    "mlp": _mlp,
    "linear": _linear,
}


def _measure(case, options):
    """One case, as a line."""
    name, _, value = case.partition(":")
    run = _MAKE[name](options, value)
    before = step_timing.resident("current")
    on_card = memory.used("current") if memory.on_gpu() else 0
    memory.forget_peaks()
    spent = []
    for _ in range(options.repeat + 1):
        start = time.perf_counter()
        told = run()
        spent.append(time.perf_counter() - start)
    first, *timed = spent
    seconds = statistics.median(timed)
    peaks = f"host {(step_timing.resident('peak') - before) / memory.GIB:.2f} GiB"
    if memory.on_gpu():
        card = memory.used("peak") - on_card
        peaks += f", GPU {card / memory.GIB:.2f} GiB"
    times = f"{min(timed):.2f} to {max(timed):.2f}, first {first:.2f}"
    return f"{seconds:9.2f} s ({times})   {told(seconds)}   ({peaks})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(_CASES)}")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=5, help="of k-means")
    parser.add_argument("--epochs", type=int, default=3, help="of dense and mlp")
    parser.add_argument("--images", type=int, default=4096, help="of extract")
    parser.add_argument("--batch", type=int, default=256, help="of extract")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of a case")
    parser.add_argument("--limit", type=float, default=120, help="seconds of a case")
    parser.add_argument("--until", type=float, default=3600, help="seconds of all")
    options = parser.parse_args()
    print(
        f"{options.rows} rows, {options.queries} queries, {options.classes} classes, "
        f"{options.clusters} clusters, ResNet-{options.depth} at {options.size} px; "
        f"TensorFlow {tf.__version__}, {os.cpu_count()} cores, "
        f"{'a GPU' if memory.on_gpu() else 'no GPU'}",
        flush=True,
    )
    for case in options.cases or _CASES:
        left = options.until - (time.perf_counter() - _START)
        if left < 1:
            print(f"{case:<24} left out: {options.until:.0f} s are over", flush=True)
            continue
        try:
            with _at_most(min(left, options.limit)):
                told = _measure(case, options)
        except Exception as error:
            told = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        print(f"{case:<24} {told}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()

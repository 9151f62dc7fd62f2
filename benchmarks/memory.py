"""Memory of this process and of the GPU, for benchmarks."""

import tensorflow as tf

from benchmarks import step_timing

GIB = 2**30


def on_gpu():
    """Whether TensorFlow computes on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def used(which):
    """Bytes in use, `"current"` or `"peak"`, on the GPU if there is one."""
    if on_gpu():
        return tf.config.experimental.get_memory_info("GPU:0")[which]
    return step_timing.resident(which)


def forget_peaks():
    """Peaks are counted anew from here."""
    if on_gpu():
        tf.config.experimental.reset_memory_stats("GPU:0")
    step_timing.forget_peak()

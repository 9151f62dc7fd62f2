"""Memory of this process and of the GPU, for benchmarks."""

import pathlib

import tensorflow as tf

GIB = 2**30


def on_gpu():
    """Whether TensorFlow computes on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def resident(which):
    """Bytes of this process, `"current"` or `"peak"`."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found[{"current": "VmRSS", "peak": "VmHWM"}[which]].split()[0]) * 1024


def used(which):
    """Bytes in use, `"current"` or `"peak"`, on the GPU if there is one."""
    if on_gpu():
        return tf.config.experimental.get_memory_info("GPU:0")[which]
    return resident(which)


def forget_peaks():
    """Peaks are counted anew from here."""
    if on_gpu():
        tf.config.experimental.reset_memory_stats("GPU:0")
    pathlib.Path("/proc/self/clear_refs").write_text("5")

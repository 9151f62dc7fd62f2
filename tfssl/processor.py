"""What computes here: the processor, what TensorFlow uses of it, the accelerators."""

import contextlib
import functools
import os
import platform
import re

import tensorflow as tf
from absl import logging

from tfssl import internals

# What /proc/cpuinfo calls them, in the order of their age.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}

_MEMINFO = "/proc/meminfo"
# Limit, use, and how much of it holds files, of control groups of version 2 and 1.
_CONTAINERS = tuple(
    (*(f"/sys/fs/cgroup/{name}" for name in names), cache)
    for names, cache in (
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (
            (
                "memory/memory.limit_in_bytes",
                "memory/memory.usage_in_bytes",
                "memory/memory.stat",
            ),
            "total_inactive_file",
        ),
    )
)


def onednn():
    """Whether TensorFlow computes with oneDNN.

    Decided when TensorFlow is loaded: by TF_ENABLE_ONEDNN_OPTS, and without it by the
    processor (on x86: on with AVX-512 VNNI, off on most others).
    """
    return internals.onednn()


def warn_if_slow(asked):
    """Logs a line if TensorFlow was loaded without oneDNN and nobody wanted that.

    Args:
        asked: what TF_ENABLE_ONEDNN_OPTS was before tfssl was imported, or None.
    """
    if asked is None and not onednn():
        logging.warning(
            "TensorFlow was loaded before tfssl and leaves oneDNN off on this "
            "processor, which makes training several times slower; import tfssl "
            "first, or set TF_ENABLE_ONEDNN_OPTS=1."
        )


def described():
    """The machine in words: a dict of text, for the record of a run."""
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "processor": cpu(_cpuinfo()),
        "onednn": "on" if onednn() else "off",
    }
    if accelerators():
        found["accelerators"] = ", ".join(accelerators())
    return found


def accelerators():
    """The names of the GPUs and TPUs that TensorFlow sees, a list."""
    names = []
    for kind in ("GPU", "TPU"):
        for device in tf.config.list_physical_devices(kind):
            details = tf.config.experimental.get_device_details(device)
            names.append(details.get("device_name", kind))
    return names


def one_thread_an_operation():
    """Has each operation on the CPU run on one thread, as input pipelines want it.

    They run as many calls beside each other as there are cores, and each call would
    split its operations over all cores again. For processes whose CPU only makes
    views. What the user has set stays, and all stays where TensorFlow has already run
    an operation.
    """
    if not os.environ.get("TF_NUM_INTRAOP_THREADS"):
        with contextlib.suppress(RuntimeError):  # It is too late.
            tf.config.threading.set_intra_op_parallelism_threads(1)


def cpu(cpuinfo):
    """The processor's name and features, from the text of `/proc/cpuinfo`."""
    fields = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", fields.get("features", "")).split()
    features = [word for flag, word in _FEATURES.items() if flag in flags]
    return f"{name} ({', '.join(features)})" if features else name


def free_memory():
    """Bytes that this process may still take: the machine's, or its container's."""
    found = [_available()]
    for limit, used, stat, cache in _CONTAINERS:
        try:
            # What is in use to hold files is given back when it is needed.
            (held,) = re.findall(rf"^{cache} (\d+)$", _text(stat), re.MULTILINE)
            found.append(int(_text(limit)) - int(_text(used)) + int(held))
        except (OSError, ValueError):  # Not there, or without a limit ("max").
            continue
    return max(0, min(found))


def check_fits(what, count, fixes):
    """Raises `ValueError` for what takes more than the free memory.

    Args:
        what: what it is, the subject of the sentence.
        count: bytes that it takes.
        fixes: what to do, the end of the sentence without its full stop.
    """
    free = free_memory()
    if count > free:
        raise ValueError(
            f"{what} take {gib(count)} of memory, but {gib(free)} are free; {fixes}."
        )


def gib(count):
    """A number of bytes as text."""
    return f"{count / 2**30:.3g} GiB"


def _available():
    try:
        (kib,) = re.findall(r"^MemAvailable: +(\d+) kB$", _text(_MEMINFO), re.MULTILINE)
        return int(kib) * 1024
    except (OSError, ValueError):  # Not Linux: what the machine has.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _text(path):
    with open(path) as file:
        return file.read()


@functools.cache
def _cpuinfo():
    path = "/proc/cpuinfo"
    if not os.path.exists(path):
        return ""  # Not Linux.
    with open(path, errors="replace") as file:
        return file.read()

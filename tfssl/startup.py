"""How TensorFlow starts: fast, and without a word where all is well.

It reads its environment when it is loaded: `tfssl/__init__.py` calls this first. What
the user has set stays.
"""

import contextlib
import gc
import glob
import os
import sys

# Where Linux shows what TensorFlow may compute on, beside processors.
_ACCELERATORS = (
    "dev/nvidia*",
    "dev/nvhost*",
    "dev/nvgpu*",
    "dev/nvmap",
    "dev/dxg",  # GPUs of the Windows below.
    "dev/kfd",  # AMD.
    "dev/accel*",  # TPUs, and these:
    "dev/vfio/[0-9]*",
    "proc/driver/nvidia",
)
_PCI_VENDORS = "sys/bus/pci/devices/*/vendor"
_NVIDIA = "0x10de"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_STDERR = 2


def prepare():
    """Sets what TensorFlow reads when it is loaded; False if that was before."""
    # Without this it leaves oneDNN off on processors without AVX-512, where a step
    # then takes several times as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "tensorflow" in sys.modules:
        return False
    # Notices of a start where all is well; warnings and errors stay.
    os.environ.setdefault(_LOG_LEVEL, "1")
    return True


@contextlib.contextmanager
def uncollected():
    """Context in which Python looks for no garbage: imports make none, but objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def look_for_devices(look):
    """Has TensorFlow look for its devices, where there are certainly none but CPUs.

    It does so once per process, and where it was built for GPUs and finds no driver, it
    logs an error, `failed call to cuInit`; a level that hides it hides the true ones as
    well. That line is dropped, and all else that comes meanwhile is printed. Does
    nothing on a machine with a card, whose driver may be at fault, or where the user
    wants every line (TF_CPP_MIN_LOG_LEVEL=0).

    Args:
        look: function that asks TensorFlow for its devices.
    """
    if os.environ.get(_LOG_LEVEL) == "0" or not only_cpus():
        return
    with contextlib.suppress(OSError), _dropped(b"failed call to cuInit"):
        look()


def only_cpus(root="/"):
    """Whether this is a Linux machine without any accelerator, with or without driver.

    Args:
        root: folder of `dev`, `proc` and `sys`.
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(glob.glob(os.path.join(root, pattern)) for pattern in _ACCELERATORS):
        return False
    for path in glob.glob(os.path.join(root, _PCI_VENDORS)):
        with open(path) as file:
            if file.read().strip() == _NVIDIA:
                return False
    return True


@contextlib.contextmanager
def _dropped(part):
    """Context in which lines of the process's stderr that hold `part` are lost."""
    stderr = os.dup(_STDERR)
    caught = os.memfd_create("stderr")
    os.dup2(caught, _STDERR)
    try:
        yield
    finally:
        os.dup2(stderr, _STDERR)
        os.close(stderr)
        with open(caught, "rb") as file:
            file.seek(0)
            kept = b"".join(line for line in file if part not in line)
        if kept:
            os.write(_STDERR, kept)

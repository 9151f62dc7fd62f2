"""Parts of a training step that XLA compiles, each by itself.

Several replicas exchange numbers in the middle of a step, where TensorFlow calls them
together: XLA cannot compile across. What lies between two exchanges it can: a pass of
the encoder, the move of a target network, the optimizer's update. These ask here, and
are compiled where the step's loop wants it (`methods.loop`), else they run as they are.
"""

import contextlib
import threading

from tfssl import internals, replicas

_here = threading.local()


def wanted():
    """Whether what is traced here shall be compiled, part by part."""
    return getattr(_here, "wanted", False)


def learning():
    """Whether a gradient will be asked for of what is traced here."""
    return not getattr(_here, "followed", False)


@contextlib.contextmanager
def _setting(name, value):
    before = getattr(_here, name, False)
    setattr(_here, name, value)
    try:
        yield
    finally:
        setattr(_here, name, before)


def compiling():
    """Context of this thread in which parts are compiled."""
    return _setting("wanted", True)


def without_gradient():
    """Context of this thread in which no gradient is asked for: parts keep nothing."""
    return _setting("followed", True)


def compiled(function):
    """A function that XLA compiles, traced once for all calls with the same shapes.

    Args:
        function: tensors (and structures of them) -> tensors. Inside of it no other
            replica is met. Gradients go through.
    """

    def run(*args):
        with _setting("wanted", False), replicas.alone():
            return function(*args)

    return internals.function(run, jit_compile=True)


def compiled_on_gpus(function, strategy):
    """`compiled` where a strategy has GPUs, also of a step that is not; else as it is.

    For many small operations, and for loops that ask the device whether to go on.
    """
    if replicas.kind_of_devices(strategy) != "GPU":  # Of a TPU all is compiled.
        return function
    return compiled(function)

"""Makes torchvision importable beside the PyTorch for processors; import it first."""

import sys
import types

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # PyPI's torchvision is built for the torch with CUDA: beside the one for
    # processors its compiled operations do not load. What the peers take of it needs
    # none of them, only this module, which describes them, does not do without.
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    name = "torchvision._meta_registrations"
    sys.modules[name] = types.ModuleType(name)

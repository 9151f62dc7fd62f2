"""The command-line binaries: absl flags and one call each."""

import gc

gc.disable()
import tfssl  # noqa: E402, F401  Before TensorFlow, which it sets up.

# What is loaded now stays to the end: there is nothing to collect in it, neither while
# a binary works nor when it ends.
gc.freeze()
gc.enable()

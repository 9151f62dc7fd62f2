"""The command-line binaries: absl flags and one call each."""

import gc
import sys

gc.disable()
try:
    import tfssl  # Before TensorFlow, which it sets up.

    tfssl.pretrain  # noqa: B018  On another backend of Keras it says what it needs.
except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

# What is loaded now stays to the end: there is nothing to collect in it, neither while
# a binary works nor when it ends.
gc.freeze()
gc.enable()

"""The command-line binaries: absl flags and one call each."""

import tfssl  # noqa: F401  Before TensorFlow, which it sets up.

"""Scripts that print speeds, ratios and accuracies."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tfssl  # noqa: E402, F401  Before TensorFlow, which it sets up.

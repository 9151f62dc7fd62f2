"""How datasets run: what is made ahead, on how many threads, in which order."""

import os

import tensorflow as tf

AHEAD = 2  # Batches made ahead of the step.
# Decorates what makes datasets of functions: AutoGraph leaves these as they are. None
# of them needs it, and to rewrite them takes seconds of the start of a process.
as_written = tf.autograph.experimental.do_not_convert


def parallel():
    """Parallel maps where nobody says otherwise."""
    return 2 * (os.cpu_count() or 1)


def options(remote=False):
    """`tf.data.Options` of a dataset that runs here, or on a data service."""
    found = tf.data.Options()
    found.deterministic = True
    # To watch every operation costs a twentieth of the time; another host, whose cores
    # are not known here, is to find its own numbers all the same.
    found.autotune.enabled = remote
    # They save no time here, and copy all images that a pipeline holds in memory.
    found.experimental_optimization.apply_default_optimizations = remote
    found.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return found

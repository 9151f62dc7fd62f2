"""What the tasks find out about a run's encoder and leave in the run's folder."""

import os

import tensorflow as tf

from tfssl.tasks import (
    classification_results,
    drawn,
    evaluation_results,
    run_report,
    segmentation_results,
    tokenizer_results,
)

FILES = (
    evaluation_results.RESULTS,
    run_report.PAGE,
    classification_results.RESULTS,
    classification_results.PAGE,
    segmentation_results.RESULTS,
    segmentation_results.PAGE,
    tokenizer_results.RESULTS,
    tokenizer_results.PAGE,
    drawn.PICTURES,
)


def remove(folder):
    """Removes the results of an encoder from its run's folder, as it trains on.

    Of `labels/` the lists that an evaluation has written.
    """
    for name in FILES:
        path = os.path.join(folder, name)
        if tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
    evaluation_results.remove_lists(folder)

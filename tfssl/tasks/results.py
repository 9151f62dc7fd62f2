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

EARLIER = "earlier"
RETRIEVAL = "retrieval.json"
FILES = (
    evaluation_results.RESULTS,
    evaluation_results.UNFINISHED,
    run_report.PAGE,
    classification_results.RESULTS,
    classification_results.PAGE,
    segmentation_results.RESULTS,
    segmentation_results.PAGE,
    tokenizer_results.RESULTS,
    tokenizer_results.PAGE,
    drawn.PICTURES,
    RETRIEVAL,
)


def put_away(folder, step):
    """Moves the results of an encoder into `earlier/step-N/`, as its run trains on.

    Of `labels/` the lists that an evaluation has written.

    Args:
        folder: of the run.
        step: int, that of the encoder.
    """
    away = os.path.join(folder, EARLIER, f"step-{step}")
    lists = evaluation_results.lists_in(folder)
    lists = [os.path.join(evaluation_results.LISTS, name) for name in lists]
    for name in (*FILES, *lists):
        path, into = os.path.join(folder, name), os.path.join(away, name)
        if tf.io.gfile.exists(path):
            tf.io.gfile.makedirs(os.path.dirname(into))
            tf.io.gfile.rename(path, into, overwrite=True)

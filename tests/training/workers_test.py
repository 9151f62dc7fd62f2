import pytest
import tensorflow as tf

from tfssl.training import workers as workers_lib


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_process_agrees_with_itself(mirrored, replicas):
    """Several processes are run by tests/pipelines/multi_worker_test.py."""
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    workers = workers_lib.Workers(strategy)
    assert workers.count == 1 and workers.is_chief
    assert workers.from_chief(lambda: (0.5, 2.0), size=2) == (0.5, 2.0)
    assert workers.any(None, 3, False) == (False, True, False)
    workers.wait()


def error(kind, message):
    return kind(None, None, message)


def test_what_tells_of_a_lost_worker():
    workers = workers_lib.Workers()
    workers.count = 2
    lost = error(
        tf.errors.UnavailableError,
        "Graph execution error:\n\nDetected at node CollectiveReduceV2\n"
        "Collective ops is aborted by: Socket closed\nThe error could be",
    )
    with pytest.raises(workers_lib.WorkerLost, match=r"\(Collective ops .*Socket cl"):
        with workers.losses_explained():
            raise lost
    # A storage that is away is not a worker, nor is a lost one when alone.
    storage = error(tf.errors.UnavailableError, "gs://bucket: try again later")
    with pytest.raises(tf.errors.UnavailableError, match="try again"):
        with workers.losses_explained():
            raise storage
    workers.count = 1
    with pytest.raises(tf.errors.UnavailableError, match="Socket closed"):
        with workers.losses_explained():
            raise lost

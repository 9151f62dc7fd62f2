import contextlib

import numpy as np
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
    workers.part()


def pair(is_chief, failed):
    """One of two processes, as the other one's numbers reach it."""
    workers = workers_lib.Workers()
    workers.count, workers.is_chief = 2, is_chief
    chiefs = [] if is_chief else [0.0] * 2 + [float(failed)]
    workers._sum = lambda mine: np.add(mine, chiefs or 0.0)
    return workers


def test_an_error_on_the_chief_reaches_all():
    def broken():
        raise OSError("the disk is away")

    with pytest.raises(OSError, match="the disk is away"):
        pair(is_chief=True, failed=True).from_chief(broken, size=2)
    with pytest.raises(workers_lib.ChiefFailed, match="the chief's log"):
        pair(is_chief=False, failed=True).from_chief(broken, size=2)
    # Where it does not fail, nobody else computes.
    assert pair(is_chief=False, failed=False).from_chief(broken, size=2) == (0.0, 0.0)
    assert pair(is_chief=True, failed=False).from_chief(lambda: (0.5,)) == (0.5,)


def error(kind, message):
    return kind(None, None, message)


def test_a_text_of_the_chief_reaches_all():
    text = 'Über {"rate": 0.1}'
    chief, other = pair(is_chief=True, failed=False), pair(is_chief=False, failed=False)
    sent = []
    chief._sum = lambda mine: sent.append(np.asarray(mine)) or sent[-1]
    assert chief.chiefs_text(text) == text
    other._sum = lambda mine: sent.pop(0) + np.zeros_like(mine)
    assert other.chiefs_text("mine") == text


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
    unlike = error(
        tf.errors.InternalError,
        "Graph execution error:\nCollective instance 336 expected type 0 and data_type "
        "9 but got type 1 and data_type 1\nAdditional GRPC error information",
    )
    with pytest.raises(ValueError, match=r"same program \(Collective .* data_type 1\)"):
        with workers.losses_explained():
            raise unlike
    # A storage that is away is not a worker, nor is a lost one when alone.
    storage = error(tf.errors.UnavailableError, "gs://bucket: try again later")
    with pytest.raises(tf.errors.UnavailableError, match="try again"):
        with workers.losses_explained():
            raise storage
    workers.count = 1
    with pytest.raises(tf.errors.UnavailableError, match="Socket closed"):
        with workers.losses_explained():
            raise lost


class _OnASlice:
    """A strategy of devices that are another process's."""

    class extended:
        worker_devices = ("/job:worker/replica:0/task:2/device:TPU:0",)


@pytest.mark.parametrize(
    "kind, message, reason",
    [
        (
            tf.errors.UnavailableError,
            "failed to connect to all addresses; last",
            "fail",
        ),
        (
            tf.errors.UnavailableError,
            "Graph execution error:\n\nSocket closed",
            "Socket",
        ),
        (tf.errors.AbortedError, "Socket closed\nAdditional GRPC error", "Socket"),
    ],
)
def test_what_tells_of_a_lost_host(kind, message, reason, mirrored):
    with pytest.raises(
        workers_lib.WorkerLost, match=rf"A host .* lost \({reason}.*sam"
    ):
        with workers_lib.Workers(_OnASlice).losses_explained():
            raise error(kind, message)
    for strategy in (None, tf.distribute.get_strategy(), mirrored(2)):
        with pytest.raises(kind), workers_lib.Workers(strategy).losses_explained():
            raise error(kind, message)


def test_errors_of_a_host_that_is_there_are_no_loss():
    """Every operation of a slice names a host."""
    workers = workers_lib.Workers(_OnASlice)
    assert workers.drives_hosts and workers.count == 1 and workers.is_chief
    for kind, message in (
        (
            tf.errors.InternalError,
            "failed to compile on /job:worker/task:2/device:TPU:0",
        ),
        (
            tf.errors.UnavailableError,
            "Error executing an HTTP request: libcurl code 56 meaning 'Failure when "
            "receiving data from the peer', error details: Connection reset by peer",
        ),
    ):
        with pytest.raises(kind), workers.losses_explained():
            raise error(kind, message)


class Agreed(Exception):
    pass


class Alone(Agreed):
    pass


@pytest.mark.parametrize("ends, meetings", [(None, 2), (Agreed, 2), (Alone, 0)])
def test_workers_part_once_all_are_through(ends, meetings):
    """One that is gone at the second meeting took nothing with it."""
    workers, met = workers_lib.Workers(), []
    workers.count = 2

    def meet(values):
        met.append(values)
        if len(met) == 2:
            raise error(tf.errors.UnavailableError, "collective: Socket closed")
        return np.zeros(len(values))

    workers._sum = meet
    with pytest.raises(ends) if ends else contextlib.nullcontext():
        with workers.losses_explained(), workers.parting(Agreed):
            if ends:
                raise ends
    assert len(met) == meetings


def test_one_that_is_gone_before_all_are_through_is_lost():
    workers = workers_lib.Workers()
    workers.count = 2

    def gone(values):
        raise error(tf.errors.UnavailableError, "collective: Socket closed")

    workers._sum = gone
    with pytest.raises(workers_lib.WorkerLost):
        with workers.losses_explained(), workers.parting():
            pass

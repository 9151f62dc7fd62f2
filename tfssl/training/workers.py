"""What the processes of one training agree on: who writes, and when to stop.

Under `MultiWorkerMirroredStrategy` every worker runs the same program. One of them,
the chief, writes the run's files. Whatever a worker knows alone (a signal, a clock,
an accuracy it computed) must reach the others before anyone acts on it, else one
worker leaves the loop and the rest wait for it in a collective operation.
"""

import contextlib
import re

import tensorflow as tf

# Under several workers, an error of one of these kinds that names a collective or
# another task comes from the loss of a worker: a crash, a network, a reboot.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)
_OF_OTHERS = re.compile(r"[Cc]ollective|/job:(chief|worker)|[Hh]eartbeat|[Cc]oordinat")


class WorkerLost(RuntimeError):
    """Another worker is gone; this one cannot go on alone."""


class Workers:
    """The processes that train together.

    Every method is a collective operation: all workers call it at the same point
    of the program. With one process they cost nothing.

    Args:
        strategy: a `tf.distribute.Strategy`, or None for one process.

    Attributes:
        count: int, number of processes.
        is_chief: whether this process writes the files.
    """

    def __init__(self, strategy=None):
        self.count, self.is_chief = 1, True
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            cluster = strategy.cluster_resolver.cluster_spec().as_dict()
            self.count = max(1, sum(map(len, cluster.values())))
            self.is_chief = strategy.extended.should_checkpoint
        self._sum = _sum_of(strategy) if self.count > 1 else None

    def from_chief(self, compute, size=1):
        """What a computation gives on the chief, on all workers.

        Args:
            compute: function without arguments -> sequence of `size` floats; called
                on the chief only.
            size: int.

        Returns:
            Tuple of floats, the same everywhere. An error on the chief ends the
            chief; the others then learn that a worker is lost.
        """
        if self.count == 1:
            return tuple(compute())
        return self._sum(compute() if self.is_chief else [0.0] * size)

    def any(self, *flags):
        """For each flag, whether it is true on any worker: a tuple of bools."""
        if self.count == 1:
            return tuple(bool(flag) for flag in flags)
        return tuple(total > 0 for total in self._sum([float(bool(f)) for f in flags]))

    def wait(self):
        """Returns when all workers are here."""
        self.any(False)

    @contextlib.contextmanager
    def losses_explained(self):
        """Raises `WorkerLost` for an error that tells of another worker's end."""
        try:
            yield
        except _LOST as error:
            if self.count == 1 or not _OF_OTHERS.search(str(error)):
                raise
            raise WorkerLost(
                f"A worker was lost ({_reason(error)}); start all workers again with "
                "the same command, they continue from the last checkpoint."
            ) from error


def _sum_of(strategy):
    """Function that adds a list of floats over the processes, exactly."""
    local = len(strategy.extended.worker_devices)

    @tf.function(autograph=False, reduce_retracing=True)
    def total(values):
        def on_replica(values):
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group % local == 0
            mine = tf.where(first, values, tf.zeros_like(values))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

        return strategy.run(on_replica, args=(values,))

    def call(values):
        result = total(tf.constant(values, tf.float64))
        return tuple(strategy.experimental_local_results(result)[0].numpy().tolist())

    return call


def _reason(error):
    """The line of TensorFlow's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if "aborted by" in line or "heartbeat" in line]
    return (told or [line for line in lines if line] or ["no reason given"])[0][:200]

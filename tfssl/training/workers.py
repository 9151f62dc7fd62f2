"""What the processes of one training agree on: who writes, and when to stop.

Under `MultiWorkerMirroredStrategy` every worker runs the same program. One of them,
the chief, writes the run's files. Whatever a worker knows alone (a signal, a clock,
an accuracy it computed) must reach the others before anyone acts on it, else one
worker leaves the loop and the rest wait for it in a collective operation.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

# Numbers that travel at once.
_BLOCK = 1 << 22
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
# What TensorFlow says where one worker adds up what another does not.
_UNLIKE = re.compile(r"[Cc]ollective instance \d+ expected")
_OF_OTHERS = re.compile(r"[Cc]ollective|/job:(chief|worker)|[Hh]eartbeat|[Cc]oordinat")
# What it says where one process drives hosts, whose devices every error may name.
_OF_A_HOST = re.compile(
    r"Socket closed|failed to connect to all addresses|Connection (reset|refused)|"
    r"Broken pipe|GOAWAY|[Kk]eepalive|[Hh]eartbeat|Unable to find a context_id"
)
# What it says of a storage such as `gs://`, whose connections break too.
_OF_A_STORAGE = re.compile(r"HTTP request|libcurl")


class WorkerLost(RuntimeError):
    """Another worker, or a host, is gone; this process cannot go on alone."""


class ChiefFailed(RuntimeError):
    """What the chief was to compute for all raised an error there."""


class Workers:
    """The processes that train together.

    Every method is a collective operation: all workers call it at the same point
    of the program. With one process they cost nothing.

    Args:
        strategy: a `tf.distribute.Strategy`, or None for one process.

    Attributes:
        count: int, number of processes.
        index: int, number of this process; the chief's is 0.
        is_chief: whether this process writes the files.
        drives_hosts: bool, whether this one process trains on devices of others, as on
            those of a TPU slice.
    """

    def __init__(self, strategy=None):
        self.count, self.index, self.is_chief = 1, 0, True
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            cluster = strategy.cluster_resolver.cluster_spec().as_dict()
            self.count = max(1, sum(map(len, cluster.values())))
            self.index = _number(strategy.cluster_resolver, cluster)
            self.is_chief = strategy.extended.should_checkpoint
        self._sum = _sum_of(strategy) if self.count > 1 else None
        self.drives_hosts = self.count == 1 and _is_elsewhere(strategy)

    def from_chief(self, compute, size=1):
        """What a computation gives on the chief, on all workers.

        Args:
            compute: function without arguments -> sequence of `size` floats; called
                on the chief only.
            size: int.

        Returns:
            Tuple of floats, the same everywhere.

        Raises:
            Exception: what `compute` raised, on the chief.
            ChiefFailed: then, on the others.
        """
        if self.count == 1:
            return tuple(compute())
        mine, failure = [0.0] * size, None
        if self.is_chief:
            try:
                mine = compute()
            except Exception as error:  # Raised below, when the others know of it.
                failure = error
        *found, failed = self._sum([*mine, float(failure is not None)]).tolist()
        if failed:
            self.part()
            raise failure or ChiefFailed("the chief's log says why")
        return tuple(found)

    def any(self, *flags):
        """For each flag, whether it is true on any worker: a tuple of bools."""
        if self.count == 1:
            return tuple(bool(flag) for flag in flags)
        totals = self._sum([float(bool(flag)) for flag in flags])
        return tuple(bool(total > 0) for total in totals)

    def sum(self, array):
        """Elementwise sum of a numpy array over the processes, added in float64.

        Returned in float64, or for floats in their own dtype. Sums of integers up to
        `2**53`, and of numbers that all processes but one hold as zeros, are exact.
        """
        if self.count == 1:
            return np.asarray(array)
        rows = np.asarray(array)
        flat = rows.reshape(-1)
        floating = np.issubdtype(rows.dtype, np.floating)
        total = np.empty(len(flat), rows.dtype if floating else np.float64)
        for first in range(0, len(flat), _BLOCK):
            block = flat[first : first + _BLOCK].astype(np.float64)
            total[first : first + _BLOCK] = self._sum(block)
        return total.reshape(rows.shape)

    def chiefs(self, array):
        """The chief's values of a numpy array, on all workers, in the same dtype."""
        array = np.asarray(array)
        mine = array if self.is_chief else np.zeros_like(array)
        return self.sum(mine).astype(array.dtype)

    def chiefs_text(self, text):
        """The chief's text, on all workers."""
        mine = np.frombuffer(text.encode(), np.uint8)
        (size,) = self.from_chief(lambda: (len(mine),))
        content = mine if self.is_chief else np.zeros(int(size), np.uint8)
        return self.chiefs(content).tobytes().decode()

    def part(self):
        """Meets the others before this process may end.

        Whoever returns from a collective operation knows that all came to it, not that
        all are through: a worker that ends then takes with it what another still
        fetches from it. So they meet twice, and at the second time one that is gone is
        no loss.
        """
        self.any(False)
        with contextlib.suppress(*_LOST):
            self.any(False)

    @contextlib.contextmanager
    def parting(self, *agreed):
        """At the end, or at an error of a type that all workers raise at once, `part`.

        Args:
            *agreed: those types, without what is derived from them.
        """
        try:
            yield
        except BaseException as error:
            if type(error) in agreed:
                self.part()
            raise
        self.part()

    @contextlib.contextmanager
    def losses_explained(self):
        """Raises `WorkerLost` for an error that tells of another worker's end.

        Or of a host's that this process drives. Or a `ValueError` for one that tells
        that the workers do not do the same.
        """
        try:
            yield
        except _LOST as error:
            if self.drives_hosts and _tells_of_a_host(str(error)):
                raise WorkerLost(
                    f"A host of the devices was lost ({_reason(error)}); start the "
                    "same command again in a new process, it continues from the last "
                    "checkpoint."
                ) from error
            if self.count == 1 or not _OF_OTHERS.search(str(error)):
                raise
            if unlike := _UNLIKE.search(str(error)):
                told = str(error)[unlike.start() :].splitlines()[0][:200]
                raise ValueError(
                    f"The workers do not run the same program ({told}); start all of "
                    "them with the same command, code and versions."
                ) from error
            raise WorkerLost(
                f"A worker was lost ({_reason(error)}); start all workers again with "
                "the same command, they continue from the last checkpoint."
            ) from error


def _tells_of_a_host(text):
    return bool(_OF_A_HOST.search(text)) and not _OF_A_STORAGE.search(text)


def _is_elsewhere(strategy):
    """Whether a strategy's devices are those of other processes."""
    try:
        names = strategy.extended.worker_devices
    except (AttributeError, RuntimeError):  # None, or the default one.
        return False
    jobs = [tf.DeviceSpec.from_string(name).job for name in names]
    return any(job not in (None, "localhost") for job in jobs)


def _sum_of(strategy):
    """Function that adds a vector of floats over the processes, exactly."""
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
        return strategy.experimental_local_results(result)[0].numpy()

    return call


def _number(resolver, cluster):
    """Place of this process among all, the chief first."""
    before = 0 if resolver.task_type == "chief" else len(cluster.get("chief", ()))
    return before + int(resolver.task_id)


def _reason(error):
    """The line of TensorFlow's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if "aborted by" in line or "heartbeat" in line]
    told = told or list(filter(_OF_A_HOST.search, lines))
    return (told or [line for line in lines if line] or ["no reason given"])[0][:200]

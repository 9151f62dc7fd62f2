"""Whether a step waits for its batch: seen, and ended, from another thread.

While the main thread waits inside TensorFlow, Python runs none of its signal handlers,
and nothing there has a time limit.
"""

import contextlib

import tensorflow as tf

from tfssl import internals

_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's name for "none".

_CLOSED = "No step begins after the wait for input was ended."

# Iterators that were interrupted: to delete one is to wait for its threads, which may
# never end.
_KEPT = []


class Interrupted(Exception):
    """A wait for input that another thread has ended, with its reason."""


class InputWait:
    """Counts the batches that steps ask for and get.

    The counts live on the CPU and outside of any strategy's variables, so that another
    thread may read them while a step runs.

    Attributes:
        calls: int, how often steps were begun.
        stepping: whether steps are being made now, or waited for, or have failed.
    """

    def __init__(self):
        with tf.init_scope(), tf.device("CPU:0"):
            self._asked, self._arrived, self._closed = (_counter() for _ in range(3))
        self._manager, self._reason = internals.cancellation_manager(), None
        self.calls, self.stepping = 0, False

    def ask(self):
        """To be called in a graph, before the iterator: the number of this batch."""
        one = tf.constant(1, tf.int64)
        tf.raw_ops.AssignAddVariableOp(resource=self._asked, value=one)
        return _value(self._asked)

    def arrive(self, number):
        """To be called in a graph, after the batch; what uses it waits for the result.

        Args:
            number: what `ask` gave.
        """
        told = tf.raw_ops.AssignVariableOp(resource=self._arrived, value=number)
        # First told, then asked; `interrupt` does it the other way round. So whoever
        # closes the wait and then sees no arrival knows that no step begins.
        with tf.control_dependencies([told]):
            closed = _value(self._closed)
        is_open = tf.debugging.assert_equal(closed, tf.zeros_like(closed), _CLOSED)
        with tf.control_dependencies([is_open]):
            return tf.identity(number)

    @property
    def number(self):
        """Number of the batch that is asked for and has not come, or None.

        It stays so after an error of the input: then no step has begun, and the state
        is that after the last one.
        """
        arrived, asked = self.arrived, int(_value(self._asked))
        return asked if asked > arrived else None

    @property
    def arrived(self):
        """How many batches have come, an int."""
        return int(_value(self._arrived))

    def interrupt(self, reason):
        """Ends the wait for input, from another thread, once and for all.

        No step begins any more. Where a read hangs in the operating system the wait
        goes on nevertheless: TensorFlow has no way to end it.
        """
        self._reason = reason
        one = tf.constant(1, tf.int64)
        tf.raw_ops.AssignVariableOp(resource=self._closed, value=one)
        self._manager.start_cancel()

    @contextlib.contextmanager
    def interruptible(self, iterator):
        """Where steps are made, and `interrupt` raises `Interrupted`.

        Args:
            iterator: what is waited for.
        """
        self.calls, self.stepping = self.calls + 1, True
        # One for each call: TensorFlow cancels it when a function ends with an error.
        self._manager = internals.cancellation_manager()
        if self._reason is not None:  # `interrupt` may have ended the one before.
            self._manager.start_cancel()
        try:
            with internals.cancelled_by(self._manager):
                yield
        except (tf.errors.OutOfRangeError, StopIteration):
            # No wait, and no failure: there is nothing more to come.
            tf.raw_ops.AssignVariableOp(
                resource=self._asked, value=_value(self._arrived)
            )
            self.stepping = False
            raise
        except (tf.errors.CancelledError, tf.errors.InvalidArgumentError) as error:
            refused = _CLOSED in str(error)
            if self._reason is None or not (
                refused or isinstance(error, tf.errors.CancelledError)
            ):
                raise
            if refused:  # As if it had not come: its step has not begun.
                asked = _value(self._asked)
                tf.raw_ops.AssignVariableOp(resource=self._arrived, value=asked - 1)
            _KEPT.append(iterator)
            raise Interrupted(self._reason) from error
        self.stepping = False


def _counter():
    handle = tf.raw_ops.VarHandleOp(
        dtype=tf.int64, shape=[], shared_name=_ANONYMOUS, container=""
    )
    tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(0, tf.int64))
    return handle


def _value(handle):
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64)
    value.set_shape([])  # The handle does not tell, and a TPU must know.
    return value

"""Nothing waits for input for ever and in silence.

A folder on a disk that hangs, or a data service that is gone, gives neither a batch
nor an error. Then the main thread stands in TensorFlow, where it hears no signal. So a
thread beside it looks on: it tells how long the wait is, and ends it after a signal, or
when the data service stays away. TensorFlow cannot end a wait for a read that hangs in
the operating system, and a monitor or a clustering hears nothing at all: there the
thread saves the state and ends the process.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time

import tensorflow as tf
from absl import logging

from tfssl import input_wait, locks
from tfssl.data import service
from tfssl.training import saving

_TICK = 0.5
# Seconds between the lines that tell of a wait; that a wait must last for a signal to
# end it, since where a batch comes its step hears the signal; that a data service may
# stay away; that monitors or a clustering may go on after a signal, which the next step
# hears; and that TensorFlow has to end a wait.
TELL_AFTER = 30.0
SIGNAL_AFTER = 2.0
SERVICE_PATIENCE = 60.0
BETWEEN_AFTER = 5.0
END_AFTER = 5.0

_FAILED_EXIT = 1


class InputLost(saving.Preempted):
    """Training that ended while it waited for input, once the state is saved.

    Threads of the input may be stuck for ever, and Python waits for them when a process
    ends: the binaries leave without. The exit code is 75, or 130 after Ctrl-C, which is
    no reason to start again.
    """

    def __init__(self, message, *, by_hand=False):
        super().__init__(message)
        if by_hand:
            self.code = 128 + signal.SIGINT


def leave(message, code):
    """Ends the process with a message, and waits for none of its threads."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    try:
        locks.give_back_all()
    finally:
        os._exit(code)


class _Watcher:
    """The thread, and what it knows of the wait."""

    def __init__(self, model, saver, addresses):
        self._model = model
        self._saver = saver
        # Else a batch is awaited longer: all save together then.
        self._alone = saver.workers.count == 1
        self._addresses = addresses
        self._number, self._since = None, 0.0
        self._calls, self._between = None, 0.0
        self._told = 0.0
        self._signal = None
        self._answered = 0.0
        self._ended = threading.Event()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def looking(self):
        """While open, the thread looks on."""
        with _signals_written(self._wake.fileno()):
            self._thread.start()
            try:
                yield
            finally:
                self._ended.set()
                self._thread.join()
        self._woken.close()
        self._wake.close()

    def _run(self):
        while not self._ended.wait(_TICK):
            reason = self._look(time.monotonic())
            if reason:
                self._model.waiting.interrupt(reason)
                if not self._ended.wait(END_AFTER):
                    self._leave(reason)
                return

    def _leave(self, reason):
        """Saves, and ends the process, since the main thread cannot be reached."""
        try:
            lost = _preempted(reason, self._model, self._saver)
            message, code = lost.message, lost.code
        except Exception as error:
            message, code = f"{reason}: {error}", _FAILED_EXIT
        # Somebody's notebook or prompt ends when asked to, not at Ctrl-C.
        stay = hasattr(sys, "ps1") and self._signal != signal.SIGTERM.name
        if not stay:
            leave(message, code)
        hint = "If nothing goes on, a read hangs in the system: restart Python."
        print(message, hint, file=sys.stderr, flush=True)

    def _look(self, now):
        """Tells of a long wait; the reason to end it, or None."""
        self._hear()
        between = self._between_steps(now)
        if self._signal and between >= (BETWEEN_AFTER if self._alone else TELL_AFTER):
            return f"{self._signal} between two steps"
        number = self._model.waiting.number
        if number is None or number != self._number:
            self._number, self._since = number, now
            self._told = self._answered = now
            return None
        waited = now - self._since
        if self._signal and waited >= (SIGNAL_AFTER if self._alone else TELL_AFTER):
            return f"{self._signal} while waiting for input"
        if now - self._told >= TELL_AFTER:
            self._told = now
            step = int(self._model.step.numpy())
            logging.warning("Waiting for input since %.0f s; step %d.", waited, step)
        return self._service_gone(now)

    def _between_steps(self, now):
        """Seconds since a signal in which no step was made or begun, nor saved."""
        waiting = self._model.waiting
        busy = waiting.stepping or self._saver.saving
        if not self._signal or busy or waiting.calls != self._calls:
            self._calls, self._between = waiting.calls, now
        return now - self._between

    def _hear(self):
        """Takes note of signals, whose numbers Python writes to the socket."""
        with contextlib.suppress(BlockingIOError):
            for number in self._woken.recv(64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._signal = signal.Signals(number).name

    def _service_gone(self, now):
        silent = [a for a in self._addresses if not service.answers(a, _TICK)]
        if not silent:
            self._answered = now
        elif now - self._answered >= SERVICE_PATIENCE:
            return (
                f"No data service answers at {', '.join(silent)} for "
                f"{SERVICE_PATIENCE:.0f} s"
            )
        return None


@contextlib.contextmanager
def watched(model, saver, *, data_service=None):
    """While open, no wait of the model for input is endless, or loses what was learnt.

    One process saves its state when input fails or is waited for in vain. Several
    workers save together or not at all: there the others lose this one, and all go on
    from the last checkpoint.

    Args:
        model: a `methods.Method`.
        saver: `saving.Saver` of the run.
        data_service: as for `data.multiview`.

    Where a read hangs in the operating system nothing can be raised: the state is saved
    and the process ends with the code and the message of an `InputLost`, unless a
    person works in it (a notebook) and has not asked for its end by SIGTERM.

    Raises:
        InputLost: after a signal during a wait, or without an answer of the data
            service: the same command, started again, goes on.
    """
    addresses = service.addresses(data_service) if data_service else []
    watcher = _Watcher(model, saver, addresses)
    try:
        with watcher.looking():
            yield
    except input_wait.Interrupted as stop:
        raise _preempted(stop, model, saver) from stop
    except tf.errors.OpError as error:
        if model.waiting.number is None:
            raise
        lost = service.lost(error) if data_service else None
        if lost:
            raise _preempted(lost, model, saver) from error
        if _saves_alone(model, saver):
            saver.save()
            step = int(model.step.numpy())
            logging.warning("The input failed; saved step %d.", step)
        raise


def _saves_alone(model, saver):
    """Whether the state is whole, and this process's to save."""
    begun = saver.model is not None  # Else not one step was made.
    # If a batch came at the last moment, its step is neither done nor not.
    whole = model.waiting.number is not None or not model.waiting.stepping
    return begun and saver.workers.count == 1 and whole


def _preempted(reason, model, saver):
    step = int(model.step.numpy())
    kept = f"stopped at step {step}, saved is the last checkpoint"
    if _saves_alone(model, saver):
        saver.save(required=True)
        kept = f"saved step {step}"
    by_hand = str(reason).startswith(signal.SIGINT.name)
    return InputLost(f"{reason}: {kept}; start again to continue.", by_hand=by_hand)


@contextlib.contextmanager
def _signals_written(descriptor):
    try:
        before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    except ValueError:  # Not the main thread: signals are not ours to hear.
        yield
        return
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)

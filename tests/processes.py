"""Modules that run as programs, each in a process of its own.

A process that has imported tfssl already is forked, which saves each of them the
seconds of that import; `startup_test.py` starts binaries from nothing.
"""

import dataclasses
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile

_LONGEST = 1200  # Seconds: far more than any takes, so that no test waits for ever.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pipelines.command"])


@dataclasses.dataclass
class End:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Worker:
    """A started program. What it prints goes to files: a full pipe would block it.

    Args:
        command: list, `[sys.executable, "-m", module, *arguments]`.
        env: dict, its environment.
    """

    def __init__(self, command, env):
        _, _, module, *arguments = command
        self._out, self._err = (tempfile.NamedTemporaryFile("r+") for _ in range(2))
        self._process = _SERVER.Process(
            target=_run,
            args=(module, arguments, dict(env), self._out.name, self._err.name),
            daemon=True,  # It ends with the tests at the latest.
        )
        self._process.start()

    def poll(self):
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, kind):
        """Sends it a signal."""
        os.kill(self._process.pid, kind)

    def wait(self):
        """How it ended, once it has; what hangs is killed."""
        self._process.join(_LONGEST)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        texts = [file.read() for file in (self._out, self._err)]
        for file in (self._out, self._err):
            file.close()
        return End(self._process.exitcode, *texts)


def _run(module, arguments, env, out, err):
    """What `python -m module` does, in a process that was forked for it."""
    for path, stream in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    # It may be ignored here, as in a shell's background jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(count, command, of_last=()):
    """Starts `command` as `count` workers, each with a TF_CONFIG of its own.

    Args:
        count: int.
        command: list, see `Worker`.
        of_last: further arguments of the last worker.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    path = os.pathsep.join(p for p in (ROOT, os.environ.get("PYTHONPATH")) if p)
    started = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        env = os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": path}
        more = of_last if index == count - 1 else ()
        started.append(Worker([*command, *more], env))
    return started


def run(count, command, of_last=()):
    """Starts the workers and waits for all of them: a list of `End`."""
    return [worker.wait() for worker in start(count, command, of_last)]

"""Starts the workers of one training as local processes."""

import dataclasses
import json
import os
import socket
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    """A started worker. What it prints goes to files: a full pipe would block it."""

    def __init__(self, command, env):
        self._out, self._err = (
            tempfile.TemporaryFile("w+"),
            tempfile.TemporaryFile("w+"),
        )
        self.process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=self._out, stderr=self._err
        )

    def wait(self):
        """How it ended, once it has."""
        code = self.process.wait()
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return End(code, *texts)


def start(count, command):
    """Starts `command` as `count` workers, each with a TF_CONFIG of its own."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    path = os.pathsep.join(p for p in (ROOT, os.environ.get("PYTHONPATH")) if p)
    started = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        env = os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": path}
        started.append(Worker(command, env))
    return started


def run(count, command):
    """Starts the workers and waits for all of them: a list of `End`."""
    return [worker.wait() for worker in start(count, command)]

"""A tf.data service of one host: makes the views of a training that runs elsewhere."""

import dataclasses
import socket
import threading
from typing import Annotated

import tensorflow as tf

from tfssl.tasks import arguments
from tfssl.tasks.arguments import Range


@dataclasses.dataclass
class Service:
    """A running service; it ends with this object.

    Attributes:
        address: what `pretrain(data_service=…)` takes.
        dispatcher: `tf.data.experimental.service.DispatchServer`.
        worker: its one `tf.data.experimental.service.WorkerServer`. One, since only
            then the order is that of a local pipeline, see `tfssl.data.service`.
    """

    address: str
    dispatcher: object
    worker: object

    def join(self):
        """Serves until the process ends, or Ctrl-C raises `KeyboardInterrupt`."""
        # Not `dispatcher.join`, from which Python does not return for a signal.
        threading.Event().wait()


Port = Annotated[int, Range(0, 65535)]


@arguments.task
def start(host: str | None = None, *, port: Port = 5050, worker_port: Port = 0):
    """Starts a dispatcher and its worker in this process.

    Args:
        host: name or IP under which the training hosts reach this one; None takes
            the name that this host gives itself.
        port: port of the dispatcher; 0 takes a free one.
        worker_port: port of the worker, which the training hosts connect to as well;
            0 takes a free one.

    Returns:
        A `Service`.

    Raises:
        ValueError: if a port cannot be used, or is in use.
    """
    host = host or socket.gethostname()
    service = tf.data.experimental.service
    try:
        _check_free(port)
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
        bound = dispatcher.target.rpartition(":")[2]
        _check_free(worker_port)
        worker = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=f"localhost:{bound}",
                worker_address=f"{host}:%port%",
                port=worker_port,
            )
        )
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        raise ValueError(
            f"port={port}, worker_port={worker_port} cannot be used ({error}); choose "
            "others."
        ) from error
    return Service(f"grpc://{host}:{bound}", dispatcher, worker)


def _check_free(port):
    """Raises `OSError` if something serves at a port, which gRPC would share with it.

    Then each of the two would get some of the calls that belong together.
    """
    with socket.socket() as probe:
        # As servers do: what is left of one that was killed takes no port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))

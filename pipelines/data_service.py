"""Serves views to a training on another host, until it is stopped.

    tfssl-data-service --host=feeder0 --port=5050
    tfssl-pretrain --data_service=grpc://feeder0:5050 …

One process per host; the training deals its batches to all that it is given. See
docs/distributed.md.
"""

from absl import flags

from pipelines import command
from tfssl.tasks import data_service

_HOST = flags.DEFINE_string(
    "host", None, "Name or IP that the training hosts reach; default this host's name."
)
_PORT = flags.DEFINE_integer(
    "port", 5050, "Of the dispatcher; 0 is a free one.", lower_bound=0
)
_WORKER_PORT = flags.DEFINE_integer(
    "worker_port", 0, "Of the worker; 0 is a free one.", lower_bound=0
)


def main():
    """Starts the service and says where it is."""
    service = data_service.start(
        _HOST.value, port=_PORT.value, worker_port=_WORKER_PORT.value
    )
    print(f"Serving: --data_service={service.address}", flush=True)
    service.join()


def run():
    """Entry point of `tfssl-data-service`."""
    command.run(main)


if __name__ == "__main__":
    run()

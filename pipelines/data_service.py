"""Serves views to a training on another host, until it is stopped.

    tfssl-data-service --host=feeder0 --port=5050
    tfssl-pretrain --data_service=grpc://feeder0:5050 …

One process per host; the training deals its batches to all that it is given. See
docs/distributed.md.
"""

from pipelines import command, task_flags
from tfssl.tasks import data_service
from tfssl.training import stalls

_arguments = task_flags.define(data_service.start, __name__)


def main():
    """Starts the service and says where it is."""
    service = data_service.start(**_arguments())
    print(f"Serving: --data_service={service.address}", flush=True)
    try:
        service.join()
    except KeyboardInterrupt:
        # TensorFlow would wait up to a minute for each pipeline that was ever read.
        stalls.leave(*command.INTERRUPTED)


def run():
    """Entry point of `tfssl-data-service`."""
    command.run(main, only_input=True)


if __name__ == "__main__":
    run()

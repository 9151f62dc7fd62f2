"""Instance retrieval by R-MAC: mean average precision as on Oxford5k and Paris6k.

    python -m pipelines.retrieve --run=runs/photos --data=oxford/jpg \
        --ground_truth=oxford/lab --whiten_data=paris/jpg
    tfssl-retrieve --run=vgg.keras --data=paris/jpg --ground_truth=paris/lab \
        --whiten_data=oxford/jpg --out=paris.json

Writes retrieval.json into the run's folder, or to --out.
"""

from pipelines import command, task_flags
from tfssl.tasks import retrieve

_arguments = task_flags.define(
    retrieve.retrieve, __name__, skip=("preprocessing", "verbose")
)


def main():
    """Runs the task with the flags' values."""
    retrieve.retrieve(**_arguments())


def run():
    """Entry point of `tfssl-retrieve`."""
    command.run(main)


if __name__ == "__main__":
    run()

r"""Trains a segmenter: what every pixel of an image shows, from any encoder.

    python -m pipelines.train_segmenter --encoder=runs/photos --data=streets.csv \
      --validation_fraction=0.2 --out=runs/streets
    tfssl-train-segmenter --flagfile=pipelines/recipes/segmenter_scenes.flags

A second start with the same --out continues an interrupted run.
"""

from pipelines import command, task_flags
from tfssl.tasks import train_segmenter

_arguments = task_flags.define(
    train_segmenter.train_segmenter,
    __name__,
    skip=("callbacks", "on_accept", "preprocessing", "verbose"),
)


def main():
    """Runs the task with the flags' values."""
    command.train(train_segmenter.train_segmenter, _arguments(), __name__, "Segmenter")


def run():
    """Entry point of `tfssl-train-segmenter`."""
    command.run(main)


if __name__ == "__main__":
    run()

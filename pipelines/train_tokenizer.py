r"""Trains a visual tokenizer: images to grids of whole numbers, and back.

    python -m pipelines.train_tokenizer --data=photos/ --out=runs/tokenizer
    tfssl-train-tokenizer --flagfile=pipelines/recipes/tokenizer_digits.flags

A second start with the same --out continues an interrupted run.
"""

from pipelines import command, task_flags
from tfssl.tasks import train_tokenizer

_arguments = task_flags.define(
    train_tokenizer.train_tokenizer,
    __name__,
    skip=("callbacks", "on_accept", "verbose"),
)


def main():
    """Runs the task with the flags' values."""
    command.train(train_tokenizer.train_tokenizer, _arguments(), __name__, "Tokenizer")


def run():
    """Entry point of `tfssl-train-tokenizer`."""
    command.run(main)


if __name__ == "__main__":
    run()
